//! What a score is kept under: a hash of all that it depends on.
//!
//! ```text
//! SHA-256( "sluice score 1\0" | model digest, 32 bytes | backend label | operation
//!          | query ids | second segment start, u32 | document or pair ids ), its first 128 bits
//! ```
//!
//! Numbers are little-endian; each part but the last, which ends with the input, is preceded by its length, so that no
//! two different inputs are the same bytes. The query ids are empty where the pair has them.
//!
//! The key itself is not kept beside the score: with 2³⁰ pairs ever scored, two of them share 128 bits with a
//! probability of 2⁻⁶⁹, less than that of a memory error. A cryptographic hash, because one tenant's texts must not be
//! able to meet another's: to hit a given pair takes 2¹²⁸ trials.

use std::hash::{BuildHasherDefault, Hash, Hasher};

use sha2::{Digest, Sha256};
use sluice_core::{Operation, batch::Sequence};
use sluice_tokenstore::ModelDigest;

const DOMAIN: &[u8] = b"sluice score 1\0";

/// 128 bits of the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key([u64; 2]);

/// A model as something computes it: scores of equal tokens are the same bits within one.
#[derive(Clone)]
pub(super) struct Profile(Sha256);

impl Profile {
    /// The model of that digest, computed by what goes by that label (precision and instructions included).
    pub(super) fn new(digest: ModelDigest, backend: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        hash.update(digest.0);
        part(&mut hash, backend.as_bytes());
        Self(hash)
    }
}

/// Makes the keys of one request.
pub(super) struct Keys(Sha256);

impl Keys {
    /// `query` are its token ids where it is a sequence of its own, else none.
    pub(super) fn new(profile: &Profile, operation: Operation, query: &[u32]) -> Self {
        let mut hash = profile.0.clone();
        part(&mut hash, operation.name().as_bytes());
        part(&mut hash, bytemuck::cast_slice(query));
        Self(hash)
    }

    /// The key of a document or pair. Costs a hash of four bytes a token.
    pub(super) fn key(&self, sequence: &Sequence) -> Key {
        let mut hash = self.0.clone();
        hash.update(sequence.second_segment_start.to_le_bytes());
        hash.update(bytemuck::cast_slice(&sequence.input_ids));
        let digest = hash.finalize();
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&digest[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        Key([word(0), word(8)])
    }
}

/// Ids are hashed as they lie in memory, which is little-endian wherever the token store compiles.
fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// A key is a hash already: a table takes half of it as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyHasher(u64);

pub(super) type BuildKeyHasher = BuildHasherDefault<KeyHasher>;

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use sluice_core::batch::Role;

    use super::*;

    #[test]
    fn every_part_counts_and_parts_do_not_run_into_each_other() {
        let digest = |byte| ModelDigest([byte; 32]);
        let sequence = |ids: &[u32], second_segment_start| Sequence {
            input_ids: ids.to_vec(),
            second_segment_start,
            role: Role::Plain,
        };
        let late = Operation::LateInteraction;
        let cases: [(u8, &str, Operation, &[u32], &[u32], u32); 13] = [
            (1, "cpu", late, &[1, 2], &[3, 4], 2),
            (2, "cpu", late, &[1, 2], &[3, 4], 2),
            (1, "cpu2", late, &[1, 2], &[3, 4], 2),
            (1, "", late, &[1, 2], &[3, 4], 2),
            (1, "cpu", Operation::EncodeDense, &[1, 2], &[3, 4], 2),
            (1, "cpu", Operation::CrossEncode, &[1, 2], &[3, 4], 2),
            (1, "cpu", late, &[1, 2, 3], &[4], 2),
            (1, "cpu", late, &[1], &[2, 3, 4], 2),
            (1, "cpu", late, &[], &[1, 2, 3, 4], 2),
            (1, "cpu", late, &[1, 2], &[3, 4], 1),
            (1, "cpu", late, &[1, 2], &[4, 3], 2),
            (1, "cpu", late, &[1, 2], &[3, 4, 0], 2),
            (1, "cpu", late, &[1, 2], &[], 2),
        ];
        let key = |(model, backend, operation, query, ids, second): (u8, &str, Operation, &[u32], &[u32], u32)| {
            Keys::new(&Profile::new(digest(model), backend), operation, query).key(&sequence(ids, second))
        };
        let keys: HashSet<Key> = cases.into_iter().map(key).collect();
        assert_eq!(keys.len(), cases.len());
        assert_eq!(key(cases[0]), key(cases[0]));
    }

    /// The layout in the module's doc, byte by byte.
    #[test]
    fn a_key_is_what_the_doc_says() {
        let sequence = Sequence { input_ids: vec![7, 0x0102_0304], second_segment_start: 9, role: Role::Plain };
        let key = Keys::new(&Profile::new(ModelDigest([5; 32]), "ab"), Operation::CrossEncode, &[6]).key(&sequence);
        let mut bytes = b"sluice score 1\0".to_vec();
        bytes.extend([5; 32]);
        bytes.extend([2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b']);
        bytes.extend([12, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(b"cross_encode");
        bytes.extend([4, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0]);
        bytes.extend([9, 0, 0, 0, 7, 0, 0, 0, 4, 3, 2, 1]);
        let digest = Sha256::digest(&bytes);
        let expected = [0, 8].map(|at| u64::from_le_bytes(digest[at..at + 8].try_into().expect("eight bytes")));
        assert_eq!(key, Key(expected));
    }
}

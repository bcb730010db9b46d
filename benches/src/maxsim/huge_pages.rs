//! Memory in huge pages where the system grants them.
//!
//! NumPy asks for them for every large array, and so for what its own and maxsim-cpu's runs read; documents of ours lie
//! in the same kind of memory here, so that neither side looks up more page tables than the other.

use std::{marker::PhantomData, ops::Deref};

use bytemuck::Pod;
use memmap2::MmapMut;

/// A copy of some values. Never changes.
pub(super) struct HugePages<T> {
    /// `None` for nothing, which cannot be mapped.
    map: Option<MmapMut>,
    bytes: usize,
    values: PhantomData<T>,
}

impl<T: Pod> HugePages<T> {
    /// Copies `values`.
    ///
    /// # Panics
    /// If there is no memory.
    pub(super) fn of(values: &[T]) -> Self {
        let source: &[u8] = bytemuck::cast_slice(values);
        let bytes = source.len();
        let map = (bytes > 0).then(|| {
            let mut map = MmapMut::map_anon(bytes).expect("memory for the documents");
            // Before the first write, which is what pages are made for. A system without huge pages refuses, and gives
            // small ones.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            map.copy_from_slice(source);
            map
        });
        Self { map, bytes, values: PhantomData }
    }
}

impl<T: Pod> Deref for HugePages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // A mapping begins where a page does.
        self.map.as_ref().map_or(&[], |map| bytemuck::cast_slice(&map[..self.bytes]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_it_was_given() {
        let values: Vec<f32> = (0..5000).map(|i| i as f32).collect();
        for count in [0, 1, 5000] {
            assert_eq!(*HugePages::of(&values[..count]), values[..count]);
        }
    }
}

//! What fails, and what it costs.

use sluice_kernels::cuda::{CudaError, encoder::OpError};

use super::*;
use crate::{cuda_encoder::PlanError, load_error::LoadError};

#[test]
fn a_batch_at_fault_costs_itself() {
    let mut cuda = Model::small().cuda();
    let sound = texts(1, &[6, 20]);
    let expected = compute(&mut cuda, Operation::CrossEncode, &sound);
    let refusals = [
        (Operation::CrossEncode, vec![vec![1, 5_000]], "5000 in input_ids"),
        (Operation::EncodeTokens, vec![vec![1; 513]], "512 in positions"),
        (Operation::MaxSim, vec![vec![1]], "not for a model's backend"),
    ];
    for (operation, texts, says) in refusals {
        match cuda.submit(batch(operation, &sequences(operation, &texts))) {
            Err(BackendError::Failed(reason)) => assert!(reason.contains(says), "{reason}"),
            other => panic!("{says}: {other:?}"),
        }
    }
    let long = texts(1, &[512, 512, 512]);
    let refused = cuda.submit(batch(Operation::CrossEncode, &sequences(Operation::CrossEncode, &long)));
    assert_eq!(refused, Err(BackendError::LimitExceeded { tokens: 1536, sequences: 3 }));
    assert_eq!(compute(&mut cuda, Operation::CrossEncode, &sound), expected);
}

#[test]
fn a_lost_device_is_rebuilt_with_its_model() {
    let model = Model::small();
    let expected = compute(&mut model.cuda(), Operation::CrossEncode, &texts(1, &[6, 20]));
    let mut cuda = model.cuda_with(|machine| machine.lost_after = 5);
    let pairs = sequences(Operation::CrossEncode, &texts(1, &[6, 20]));
    let lost = cuda.submit(batch(Operation::CrossEncode, &pairs));
    assert!(matches!(lost, Err(BackendError::DeviceLost(_))), "{lost:?}");
    cuda.rebuild().unwrap();
    assert_eq!(compute(&mut cuda, Operation::CrossEncode, &texts(1, &[6, 20])), expected);
}

#[test]
fn a_batch_is_ready_once_the_device_says_so() {
    let model = Model::small();
    for is_busy in [false, true] {
        let mut cuda = model.cuda_with(move |machine| machine.is_busy = is_busy);
        let pairs = sequences(Operation::CrossEncode, &texts(1, &[6, 20]));
        let ticket = cuda.submit(batch(Operation::CrossEncode, &pairs)).unwrap();
        assert_eq!(cuda.is_ready(&ticket), !is_busy);
        assert!(cuda.is_ready(&Ticket(ticket.0 + 1)), "one that is not the next is refused at once");
        cuda.collect(ticket).unwrap();
    }
}

#[test]
fn models_that_no_kernel_takes_are_refused_before_anything_is_reserved() {
    let capacity = Capacity { tokens: 64, sequences: 4 };
    let odd = Model::new(Sizes { intermediate: 100, ..SIZES }, "pooling_mode_mean_tokens", "gelu", Multiplier::Own);
    let folder = FolderConfig::read(odd.folder.path()).unwrap();
    let refused = Regions::plan(&folder.bert, true, capacity);
    assert!(matches!(refused, Err(OpError::Width { found: 100, .. })), "{refused:?}");
}

#[test]
fn batches_are_as_large_as_the_memory_allows() {
    let folder = FolderConfig::read(Model::small().folder.path()).unwrap();
    let capacity = Capacity { tokens: 4096, sequences: 16 };
    let of = |tokens| Regions::plan(&folder.bert, true, Capacity { tokens, ..capacity }).unwrap().memory.arena_bytes;
    let fit = |bytes_max| Regions::fit(&folder.bert, true, capacity, 300, bytes_max);
    for (bytes_max, tokens) in [
        (usize::MAX, 4096),
        (of(4096), 4096),
        (of(4096) - 1, 2048),
        (of(1024) + 1, 1024),
        (of(512) - 1, 300),
        (of(300), 300),
    ] {
        let regions = fit(bytes_max).unwrap();
        assert_eq!(regions.capacity(), Capacity { tokens, sequences: 16 }, "{bytes_max} bytes");
        assert!(regions.memory.arena_bytes <= bytes_max);
    }
    let refused = fit(of(300) - 1);
    assert!(matches!(refused, Err(PlanError::Room { bytes }) if bytes == of(300)), "{:?}", refused.err());
}

fn load(
    model: &Model,
    multiplier: Multiplier,
    change: impl Fn(&mut Emulated),
) -> Result<CudaEncoder<Emulated>, LoadError> {
    let folder = FolderConfig::read(model.folder.path()).unwrap();
    let regions = Regions::plan(&folder.bert, folder.cross_encoder, Capacity { tokens: 64, sequences: 4 }).unwrap();
    let mut machine = Emulated::new(regions.memory, 1);
    change(&mut machine);
    let weights = Weights { path: &folder.weights, config_path: &folder.config, config: &folder.bert };
    let mut encoder = CudaEncoder::load(&weights, regions, multiplier, machine)?;
    encoder.try_out()?;
    Ok(encoder)
}

/// Whoever may fall back on the CPU does, by these errors.
#[test]
fn weights_that_f16_cannot_hold_are_said() {
    let model = Model::small();
    let mut tensors = tiny::tensors_of(SIZES, 7, 1);
    tensors.get_mut("encoder.layer.1.output.dense.weight").unwrap().1[3] = 1e6;
    tiny::write_tensors(model.folder.path(), &tensors);
    match load(&model, Multiplier::Own, |_| ()).err() {
        Some(LoadError::CudaUnsupported { reason }) => assert!(reason.contains("a weight is 1e6"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_fails_first_fails_while_the_model_is_loaded() {
    let model = Model::small();
    for multiplier in [Multiplier::Own, Multiplier::CublasLt] {
        let sound = load(&model, multiplier, |_| ()).unwrap();
        assert_eq!(sound.label(), multiplier.label(0));
        // Everything that a batch may need was started: of each slot, vectors, pooled ones, logits and scores.
        for kernel in [
            "encoder_attention_d32",
            "encoder_attention_first_d32",
            "encoder_pool_d512",
            "encoder_score",
            "maxsim_stream_f16_q32_gaps",
        ] {
            assert!(sound.machine.started.contains(&kernel), "{kernel}: {:?}", sound.machine.started);
        }
        for lost_after in [0, 1, 20, sound.machine.started.len() - 1] {
            let lost = load(&model, multiplier, |machine| machine.lost_after = lost_after).err();
            let is_lost = matches!(lost, Some(LoadError::Cuda { source: CudaError::Lost { .. } }));
            assert!(is_lost, "{lost_after}: {lost:?}");
        }
    }
}

#[test]
fn a_library_that_does_not_multiply_is_not_used() {
    let model = Model::small();
    let fallen_back = load(&model, Multiplier::CublasLt, |machine| machine.library_fails = true).unwrap();
    assert_eq!(fallen_back.label(), "cuda-f16");
    assert_eq!(Multiplier::CublasLt.label(1), "cuda-f16-mixed", "where only some products are the library's");
    let refused = load(&model, Multiplier::Own, |machine| machine.library_fails = true).err();
    assert!(matches!(refused, Some(LoadError::Cuda { source: CudaError::Launch { .. } })), "{refused:?}");
}

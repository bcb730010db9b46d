//! Where a query's vectors come from changes no bit.

use sluice_core::batch::TokenMatrix;

use super::*;

fn query(slot: &Arc<QueryVectors>) -> Sequence {
    Sequence::single(vec![2, 9, 14, 3], Role::Query(Arc::clone(slot)))
}

fn documents(slot: &Arc<QueryVectors>, texts: &[Vec<u32>]) -> Vec<Sequence> {
    texts.iter().map(|ids| Sequence::single(ids.clone(), Role::Document(Arc::clone(slot)))).collect()
}

fn scores(output: BatchOutput) -> Vec<u32> {
    rows(output).into_iter().map(|score| score[0].to_bits()).collect()
}

#[test]
fn a_query_is_found_in_its_batch_in_the_one_before_and_on_the_host() {
    let mut cuda = Model::small().cuda();
    let texts = texts(4, &[30, 1, 70]);
    let submit = |cuda: &mut CudaBackend<Emulated>, units: &[Sequence]| {
        cuda.submit(batch(Operation::LateInteraction, units)).unwrap()
    };

    let slot = Arc::new(QueryVectors::default());
    let together: Vec<Sequence> = std::iter::once(query(&slot)).chain(documents(&slot, &texts)).collect();
    let ticket = submit(&mut cuda, &together);
    let expected = scores(cuda.collect(ticket).unwrap());
    assert_eq!(expected[0], 0, "a query has no score");
    let vectors = slot.get().unwrap().clone();
    assert_eq!((vectors.rows(), vectors.dim), (4, SIZES.hidden));

    // Computed by a batch that has been collected: the host has it.
    let ticket = submit(&mut cuda, &documents(&slot, &texts));
    assert_eq!(scores(cuda.collect(ticket).unwrap()), expected[1..]);

    // Under way: the device has it, in the other slot.
    let slot = Arc::new(QueryVectors::default());
    let first = submit(&mut cuda, &[query(&slot)]);
    let second = submit(&mut cuda, &documents(&slot, &texts));
    assert!(slot.get().is_none());
    assert_eq!(scores(cuda.collect(first).unwrap()), [0]);
    assert_eq!(slot.get(), Some(&vectors));
    assert_eq!(scores(cuda.collect(second).unwrap()), expected[1..]);

    // A batch that is tried again finds the slot filled.
    let ticket = submit(&mut cuda, &together);
    assert_eq!(scores(cuda.collect(ticket).unwrap()), expected);
}

#[test]
fn several_queries_keep_to_their_documents() {
    let mut cuda = Model::small().cuda();
    let texts = texts(9, &[12, 66, 3]);
    let known = |seed: u64| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let data = (0..3 * SIZES.hidden).map(|_| rng.random_range(-0.2..0.2_f32)).collect();
        Arc::new(QueryVectors::known(TokenMatrix { data, dim: SIZES.hidden }))
    };
    let (a, b, own) = (known(1), known(2), Arc::new(QueryVectors::default()));
    let alone = |cuda: &mut CudaBackend<Emulated>, slot: &Arc<QueryVectors>| {
        scores(run(cuda, &batch(Operation::LateInteraction, &documents(slot, &texts))).unwrap())
    };
    let (of_a, of_b) = (alone(&mut cuda, &a), alone(&mut cuda, &b));
    assert_ne!(of_a, of_b);
    let mut units = documents(&a, &texts[..2]);
    units.push(query(&own));
    units.extend(documents(&b, &texts));
    units.extend(documents(&own, &texts[..1]));
    units.extend(documents(&a, &texts[2..]));
    let found = scores(run(&mut cuda, &batch(Operation::LateInteraction, &units)).unwrap());
    assert_eq!((&found[..2], &found[3..6], found[7]), (&of_a[..2], &of_b[..], of_a[2]));
    assert_eq!(vec![found[6]], alone(&mut cuda, &own)[..1]);
}

#[test]
fn long_queries_are_met_chunk_by_chunk() {
    let model = Model::small();
    let (mut cpu, mut cuda) = (model.cpu(), model.cuda());
    let texts = texts(2, &[150, 40, 7]);
    let score = |backend: &mut dyn Backend| {
        let slot = Arc::new(QueryVectors::default());
        let query = Sequence::single(texts[0].clone(), Role::Query(Arc::clone(&slot)));
        let units: Vec<Sequence> = std::iter::once(query).chain(documents(&slot, &texts[1..])).collect();
        rows(run(backend, &batch(Operation::LateInteraction, &units)).unwrap())
    };
    let (expected, found) = (score(&mut *cpu), score(&mut cuda));
    for (found, expected) in found.iter().zip(&expected) {
        // A sum over 150 query rows, each within f16's error of a cosine.
        assert!((found[0] - expected[0]).abs() < 2e-2, "{found:?}, expected {expected:?}");
    }
}

#[test]
fn queries_that_are_nowhere_or_of_another_model_fail_their_batch() {
    let mut cuda = Model::small().cuda();
    let texts = texts(4, &[3]);
    let narrow = Arc::new(QueryVectors::known(TokenMatrix { data: vec![0.5; 16], dim: 8 }));
    for (units, says) in [
        (documents(&Arc::default(), &texts), "not computed"),
        (documents(&narrow, &texts), "a query of 8 components meets documents of 64"),
        (vec![Sequence::single(texts[0].clone(), Role::Plain)], "neither query nor document"),
    ] {
        match cuda.submit(batch(Operation::LateInteraction, &units)) {
            Err(BackendError::Failed(reason)) => assert!(reason.contains(says), "{reason}"),
            other => panic!("{says}: {other:?}"),
        }
    }
    let rows = 3000;
    let long = Arc::new(QueryVectors::known(TokenMatrix { data: vec![0.1; rows * SIZES.hidden], dim: SIZES.hidden }));
    let refused = cuda.submit(batch(Operation::LateInteraction, &documents(&long, &texts)));
    assert_eq!(refused, Err(BackendError::OutOfMemory), "fewer documents may have fewer queries");
}

//! The shim runs what is right and finds what is wrong.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helper functions too")]

use sluice_cuda_shim::{Launch, LaunchError, Limits, Memory, kernels, launch};

/// One block of `threads`, in the order of seed 1.
fn one_block(kernel: &str, threads: u32) -> Launch<'_> {
    Launch { kernel, grid: [1; 3], block: [threads, 1, 1], shared_bytes: 0, limits: Limits::SM_90, seed: 1 }
}

fn bytes(address: u64) -> [u8; 8] {
    address.to_ne_bytes()
}

fn failure(result: Result<(), LaunchError>) -> String {
    match result {
        Err(LaunchError::Failed(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reduction_over_blocks_is_right_in_any_order() {
    let mut memory = Memory::new();
    let x: Vec<f32> = (0..700).map(|i| (i % 13) as f32).collect();
    let (input, output) = (memory.upload(&x), memory.alloc::<f32>(3));
    for seed in 0..20 {
        memory.write(output, &[f32::NAN; 3]);
        let reduce = Launch { grid: [3, 1, 1], seed, ..one_block("selftest_reduce", 256) };
        let parameters = [&bytes(input.address())[..], &bytes(output.address()), &700_u32.to_ne_bytes()];
        launch(&reduce, &mut memory, &parameters).unwrap();
        let expected: Vec<f32> = x.chunks(256).map(|part| part.iter().sum()).collect();
        assert_eq!(memory.read(output), expected, "seed {seed}");
    }
}

#[test]
fn a_missing_barrier_shows() {
    let mut memory = Memory::new();
    let output = memory.alloc::<u32>(64);
    let expected: Vec<u32> = (0..64).map(|i| (i + 63) % 64).collect();
    let mut wrong = 0;
    for (barrier, seed) in (0..10).flat_map(|seed| [(1_u32, seed), (0, seed)]) {
        let pass_on = Launch { seed, ..one_block("selftest_pass_on", 64) };
        launch(&pass_on, &mut memory, &[&bytes(output.address()), &barrier.to_ne_bytes()]).unwrap();
        if barrier == 1 {
            assert_eq!(memory.read(output), expected, "seed {seed}");
        } else {
            wrong += usize::from(memory.read(output) != expected);
        }
    }
    assert_eq!(wrong, 10, "threads that do not wait read what nobody has written");
}

#[test]
fn waiting_for_ever_is_reported() {
    let cases = [
        (
            "selftest_lost_thread",
            64,
            "deadlock: 63 of 64 threads wait at __syncthreads; warp 0: lanes 0 wait at __syncwarp",
        ),
        ("selftest_half_warp", 32, "never will: they have ended"),
        ("selftest_mixed_warp", 32, "__ballot"),
    ];
    for (kernel, threads, expected) in cases {
        let mut memory = Memory::new();
        let output = memory.alloc::<u32>(threads as usize);
        let text = failure(launch(&one_block(kernel, threads), &mut memory, &[&bytes(output.address())]));
        let ended = kernel == "selftest_half_warp" && text.contains("has ended while");
        assert!(text.contains(expected) || ended, "{kernel}: {text}");
        // The next launch starts from nothing.
        let pass_on = one_block("selftest_pass_on", threads);
        launch(&pass_on, &mut memory, &[&bytes(output.address()), &1_u32.to_ne_bytes()]).unwrap();
    }
}

#[test]
fn accesses_out_of_bounds_are_found() {
    for (at, how, expected) in [
        (0_u32, 0_u32, None),
        (8, 0, Some("out of bounds: read of 4 bytes ends 4 bytes beyond")),
        (8, 1, Some("out of bounds: write")),
        (4, 3, None),
        (6, 3, Some("not aligned to 16")),
    ] {
        let mut memory = Memory::new();
        let x = memory.upload(&[0.0_f32; 8]);
        let parameters = [&bytes(x.address())[..], &at.to_ne_bytes(), &how.to_ne_bytes()];
        let result = launch(&one_block("selftest_touch", 1), &mut memory, &parameters);
        match expected {
            None => result.unwrap(),
            Some(expected) => {
                let text = failure(result);
                assert!(text.contains(expected), "{at} {how}: {text}");
            }
        }
    }
    let mut memory = Memory::new();
    let (_, x) = (memory.alloc::<u8>(1), memory.upload(&[0.0_f32; 8]));
    let parameters = [&bytes(x.address())[..], &9_u32.to_ne_bytes(), &2_u32.to_ne_bytes()];
    let result = launch(&one_block("selftest_touch", 1), &mut memory, &parameters);
    assert_eq!(result, Err(LaunchError::Trespass { buffer: 1 }));
}

#[test]
fn shared_memory_begins_as_poison_and_ends_at_its_size() {
    let mut memory = Memory::new();
    let before = memory.alloc::<u32>(30);
    let shared = Launch { grid: [3, 1, 1], shared_bytes: 40, ..one_block("selftest_shared", 32) };
    launch(&shared, &mut memory, &[&bytes(before.address()), &10_u32.to_ne_bytes()]).unwrap();
    assert_eq!(memory.read(before), [u32::MAX; 30]);
    let larger = memory.alloc::<u32>(33);
    let text = failure(launch(&shared, &mut memory, &[&bytes(larger.address()), &11_u32.to_ne_bytes()]));
    assert_eq!(text, "block 0, 0, 0 wrote outside its 40 bytes of shared memory");
}

#[test]
fn launches_that_a_device_refuses_are_refused() {
    let mut memory = Memory::new();
    let limit = |what, asked, most| Err(LaunchError::Limit { what, asked, most });
    let sound = one_block("selftest_pass_on", 32);
    for (refused, expected) in [
        (Launch { block: [1025, 1, 1], ..sound }, limit("threads of a block", 1025, 1024)),
        (Launch { grid: [1, 65_536, 1], ..sound }, limit("blocks along y", 65_536, 65_535)),
        (
            Launch { shared_bytes: 100 << 10, limits: Limits::SM_86, ..sound },
            limit("bytes of dynamic shared memory", 100 << 10, 99 << 10),
        ),
        (Launch { grid: [0, 1, 1], ..sound }, limit("an empty launch", 0, 0)),
        (Launch { kernel: "nobody", ..sound }, Err(LaunchError::UnknownKernel("nobody".to_owned()))),
        (sound, Err(LaunchError::Parameters("takes 2 parameters".to_owned()))),
    ] {
        assert_eq!(launch(&refused, &mut memory, &[]), expected, "{refused:?}");
    }
    let parameters: [&[u8]; 2] = [&[0; 8], &[0; 8]];
    assert_eq!(
        launch(&sound, &mut memory, &parameters),
        Err(LaunchError::Parameters("parameter 1 has 4 bytes".to_owned()))
    );
    assert!(kernels().contains(&"selftest_reduce"), "{:?}", kernels());
}

/// Bits of a half that is a small whole number, or a half of one.
fn half(x: f32) -> u16 {
    let bits = x.to_bits();
    if x == 0.0 { 0 } else { ((bits >> 16 & 0x8000) | ((bits >> 23 & 0xff) - 112) << 10 | (bits >> 13 & 0x3ff)) as u16 }
}

#[test]
fn matrix_instructions_multiply_matrices() {
    let number = |i: usize, modulus: usize| ((i * 7 + 3) % modulus) as i32 - (modulus / 2) as i32;
    let a16: Vec<i32> = (0..16 * 16).map(|i| number(i, 11)).collect();
    let b16: Vec<i32> = (0..8 * 16).map(|i| number(i, 17)).collect();
    let a8: Vec<i32> = (0..16 * 32).map(|i| number(i, 255)).collect();
    let b8: Vec<i32> = (0..8 * 32).map(|i| (i * 31 + 5) % 256).collect();
    let product = |a: &[i32], b: &[i32], k: usize| -> Vec<i32> {
        let at = |i: usize| (i / 8, i % 8, [1, 2, 3, 4][i / 64 * 2 + i % 2]);
        let cell =
            |(row, column, c): (usize, usize, i32)| c + (0..k).map(|j| a[row * k + j] * b[column * k + j]).sum::<i32>();
        (0..128).map(at).map(cell).collect()
    };
    let halves = |x: &[i32]| x.iter().map(|&x| half(x as f32)).collect::<Vec<u16>>();
    let mut memory = Memory::new();
    let (a_f16, b_f16, c_f16) = (memory.upload(&halves(&a16)), memory.upload(&halves(&b16)), memory.alloc::<f32>(128));
    let a_s8 = memory.upload(&a8.iter().map(|&x| x as i8).collect::<Vec<_>>());
    let b_u8 = memory.upload(&b8.iter().map(|&x| x as u8).collect::<Vec<_>>());
    let c_s32 = memory.alloc::<i32>(128);
    let addresses =
        [a_f16.address(), b_f16.address(), c_f16.address(), a_s8.address(), b_u8.address(), c_s32.address()];
    let parameters: Vec<[u8; 8]> = addresses.map(bytes).to_vec();
    let parameters: Vec<&[u8]> = parameters.iter().map(|bytes| &bytes[..]).collect();
    launch(&one_block("selftest_mma", 32), &mut memory, &parameters).unwrap();
    assert_eq!(memory.read(c_f16), product(&a16, &b16, 16).iter().map(|&x| x as f32).collect::<Vec<_>>());
    assert_eq!(memory.read(c_s32), product(&a8, &b8, 32));
}

#[test]
fn shuffles_move_what_cuda_moves() {
    let mut memory = Memory::new();
    let out = memory.alloc::<u32>(160);
    launch(&one_block("selftest_shuffles", 32), &mut memory, &[&bytes(out.address())]).unwrap();
    let found = memory.read(out);
    for lane in 0..32_u32 {
        let down = if lane + 4 < 32 { lane + 4 } else { lane };
        let up = if lane % 8 >= 4 { lane - 4 } else { lane };
        let votes = (0..32).filter(|lane| lane % 3 == 0).fold(0_u32, |votes, lane| votes | 1 << lane);
        for (row, expected) in [3, lane ^ 5, down, up, votes].into_iter().enumerate() {
            assert_eq!(found[row * 32 + lane as usize], expected, "row {row}, lane {lane}");
        }
    }
}

#[test]
fn numbers_are_those_of_a_device() {
    let nan = f32::NAN;
    let a = [1.0, nan, 1.0, -0.0, 0.0, f32::NEG_INFINITY, -2.0, 5.0];
    let b = [2.0, 1.0, nan, 0.0, -0.0, -1.0, f32::INFINITY, 5.0];
    let halves: [u16; 8] = [0x3c00, 0x8000, 0x0001, 0x83ff, 0x7bff, 0x7c00, 0xfc00, 0x7e00];
    let values =
        [1.0, -0.0, 2_f32.powi(-24), -1023.0 * 2_f32.powi(-24), 65504.0, f32::INFINITY, f32::NEG_INFINITY, nan];
    let maxima = [2.0, nan, nan, 0.0, 0.0, -1.0, f32::INFINITY, 5.0];
    let mut memory = Memory::new();
    let buffers = [memory.upload(&a).address(), memory.upload(&b).address(), memory.upload(&halves).address()];
    let out = memory.alloc::<f32>(16);
    let parameters = [buffers[0], buffers[1], buffers[2], out.address()].map(bytes);
    let parameters: Vec<&[u8]> = parameters.iter().map(|bytes| &bytes[..]).collect();
    launch(&one_block("selftest_numbers", 8), &mut memory, &parameters).unwrap();
    for (i, pair) in memory.read(out).chunks(2).enumerate() {
        let same = |x: f32, y: f32| x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan());
        assert!(same(pair[0], maxima[i]) && same(pair[1], values[i]), "{i}: {pair:?}");
    }
}

#[test]
fn matrices_are_loaded_as_fragments() {
    let element = |matrix: u32, row: u32, column: u32| matrix * 64 + row * 8 + column;
    let x: Vec<u16> = (0..256).collect();
    let run = |pitch: u32, wait: u32, seed| {
        let mut memory = Memory::new();
        let (input, out) = (memory.upload(&x), memory.alloc::<u32>(256));
        let load = Launch { shared_bytes: 32 * 16 * pitch as usize, seed, ..one_block("selftest_matrices", 32) };
        let parameters =
            [&bytes(input.address())[..], &bytes(out.address()), &pitch.to_ne_bytes(), &wait.to_ne_bytes()];
        launch(&load, &mut memory, &parameters).unwrap();
        memory.read(out)
    };
    for pitch in [1, 3] {
        let found = run(pitch, 1, 1);
        for (lane, matrix) in (0..32_u32).flat_map(|lane| (0..4).map(move |matrix| (lane, matrix))) {
            let (row, column) = (lane / 4, lane % 4 * 2);
            let plain = element(matrix, row, column) | element(matrix, row, column + 1) << 16;
            let transposed = element(matrix, column, row) | element(matrix, column + 1, row) << 16;
            let at = (lane * 4 + matrix) as usize;
            assert_eq!((found[at], found[128 + at]), (plain, transposed), "lane {lane}, matrix {matrix}");
        }
    }
    let sound = run(1, 1, 1);
    let wrong = (0..10).filter(|&seed| run(1, 0, seed) != sound).count();
    assert_eq!(wrong, 10, "copies that nobody waited for have not all arrived");
}

#[test]
fn floats_are_rounded_to_halves() {
    // Exact halves, ties to even on both sides, the smallest and what rounds to zero, the largest and what overflows.
    let cases: [(f32, u16); 16] = [
        (1.0, 0x3c00),
        (-2.0, 0xc000),
        (1.0 + 2_f32.powi(-11), 0x3c00),
        (1.0 + 3.0 * 2_f32.powi(-11), 0x3c02),
        (1.0 + 2_f32.powi(-11) + 2_f32.powi(-20), 0x3c01),
        (2_f32.powi(-14), 0x0400),
        (2_f32.powi(-14) - 2_f32.powi(-25), 0x0400),
        (2_f32.powi(-24), 0x0001),
        (-2_f32.powi(-25), 0x8000),
        (1.5 * 2_f32.powi(-24), 0x0002),
        (2.5 * 2_f32.powi(-24), 0x0002),
        (65504.0, 0x7bff),
        (65519.0, 0x7bff),
        (65520.0, 0x7c00),
        (f32::NEG_INFINITY, 0xfc00),
        (-0.0, 0x8000),
    ];
    let mut memory = Memory::new();
    let x = memory.upload(&cases.map(|(x, _)| x));
    let out = memory.alloc::<u16>(16);
    launch(&one_block("selftest_halves", 16), &mut memory, &[&bytes(x.address()), &bytes(out.address())]).unwrap();
    for (found, (x, expected)) in memory.read(out).into_iter().zip(cases) {
        assert_eq!(found, expected, "{x}: {found:04x}");
    }
    let nan = memory.upload(&[f32::NAN; 16]);
    launch(&one_block("selftest_halves", 16), &mut memory, &[&bytes(nan.address()), &bytes(out.address())]).unwrap();
    assert!(memory.read(out).into_iter().all(|half| half & 0x7fff > 0x7c00));
}

//! Compiles the shim and every CUDA source below `kernels/cuda` (and the shim's own `cuda`) with the C++ compiler.
#![allow(clippy::disallowed_methods, reason = "a build script hears from cargo through the environment")]

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Put in front of every kernel, so no source of its own.
const PRELUDE: &str = "prelude.cu";

fn main() -> io::Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let kernels = manifest.parent().expect("the shim stands below the kernels").join("cuda");
    let prelude = kernels.join(PRELUDE);

    let mut build = cc::Build::new();
    // Device code is numeric code: tests would wait for it otherwise. Every multiplication and addition rounds, unless
    // the source says fmaf: what a test finds is then the same with every compiler.
    build.cpp(true).std("c++17").opt_level(2).flag("-ffp-contract=off").flag("-fno-strict-aliasing");
    // longjmp between stacks is what the shim does; a fortified one takes that for an error.
    build.flag("-U_FORTIFY_SOURCE");
    // #pragma unroll and functions that one source does not use.
    build.flag_if_supported("-Wno-unknown-pragmas").flag_if_supported("-Wno-unused-function");
    build.flag_if_supported("-Wno-clobbered");
    build.include(manifest.join("runtime")).file(manifest.join("runtime/shim.cpp"));

    let mut names = Vec::new();
    for folder in [&kernels, &manifest.join("cuda")] {
        println!("cargo::rerun-if-changed={}", folder.display());
        for source in sources(folder)? {
            let found = kernel_names(&fs::read_to_string(&source)?);
            let unit = out.join(format!("source_{}.cpp", names.len()));
            fs::write(&unit, translation_unit(&prelude, &source, names.len(), &found)?)?;
            build.file(unit);
            names.extend(found);
        }
    }
    println!("cargo::rerun-if-changed={}", manifest.join("runtime").display());

    let table = out.join("table.cpp");
    fs::write(&table, kernel_table(&names))?;
    build.file(table).compile("sluice_cuda_shim");
    Ok(())
}

/// CUDA sources below a folder, in the order of their paths.
fn sources(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "cu") && !path.ends_with(PRELUDE) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Names of `extern "C" __global__ void [__launch_bounds__(…)] name(`, each on one line.
fn kernel_names(source: &str) -> Vec<String> {
    let declarations = source.lines().filter_map(|line| line.strip_prefix("extern \"C\" __global__ void "));
    declarations
        .map(|rest| {
            let rest = match rest.strip_prefix("__launch_bounds__(") {
                Some(bounds) => bounds.split_once(')').expect("launch bounds are closed on their line").1,
                None => rest,
            };
            rest.split('(').next().unwrap_or_default().trim().to_owned()
        })
        .collect()
}

/// A source behind the prelude and its folder's `.cuh` files, as `kernels/cuda/compile.py` puts them together; in a
/// namespace of its own, since two sources may have functions of one name.
fn translation_unit(prelude: &Path, source: &Path, number: usize, names: &[String]) -> io::Result<String> {
    let mut shared = Vec::new();
    for entry in fs::read_dir(source.parent().expect("a file stands in a folder"))? {
        let path = entry?.path();
        shared.extend(path.extension().is_some_and(|extension| extension == "cuh").then_some(path));
    }
    shared.sort();
    let include = |path: &Path| format!("#include \"{}\"\n", path.display());
    let lines: String = names.iter().map(|name| format!("SHIM_KERNEL({name})\n")).collect();
    let sources: String = shared.iter().map(PathBuf::as_path).chain([source]).map(include).collect();
    Ok(format!("#include \"shim.h\"\n{}namespace source_{number} {{\n{sources}{lines}}}\n", include(prelude)))
}

fn kernel_table(names: &[String]) -> String {
    let declarations: String =
        names.iter().map(|name| format!("extern const shim::Kernel shim_kernel_{name};\n")).collect();
    let entries: String = names.iter().map(|name| format!("    &shim_kernel_{name},\n")).collect();
    format!(
        "#include \"shim.h\"\nextern \"C\" {{\n{declarations}\
         extern const shim::Kernel* const shim_kernels[];\nextern const size_t shim_kernel_count;\n\
         const shim::Kernel* const shim_kernels[] = {{\n{entries}}};\n\
         const size_t shim_kernel_count = {};\n}}\n",
        names.len()
    )
}

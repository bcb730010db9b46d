//! The example configuration: it says every default, and what each key is for.
#![allow(clippy::disallowed_methods, reason = "reads a file of the workspace")]

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use sluice_server::{
    ServerConfig,
    config::{
        AdmissionConfig, CpuBackend, Device, Limits, LogConfig, ModelConfig, Precision, SchedulerConfig,
        ScoreCacheConfig, TenantConfig, TokenStoreConfig,
    },
};
use sluice_service::{
    config::{ConfigFaults, ConfigFile, Layers, load_and_check, render},
    drain::DrainConfig,
    grpc::GrpcConfig,
};

fn example() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/server.toml");
    std::fs::read_to_string(&path).expect("deploy/server.toml is there")
}

fn load(text: String) -> Result<ServerConfig, ConfigFaults> {
    let file = Some(ConfigFile { path: "deploy/server.toml".into(), text });
    load_and_check(&Layers { file, ..Layers::default() }, ServerConfig::faults)
}

/// The key of a line that sets one, commented out or not.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ")?;
    key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_').then_some(key)
}

/// The example with everything set that is commented out.
fn uncommented(text: &str) -> String {
    let is_setting = |line: &str| key(line).is_some() || line.starts_with("# [[");
    let uncomment = |line: &str| line.strip_prefix("# ").filter(|_| is_setting(line)).unwrap_or(line).to_owned() + "\n";
    text.lines().map(uncomment).collect()
}

/// Every key there is: a new field does not compile here until it is named, and then has to be in the example.
fn everything_set() -> ServerConfig {
    ServerConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 1)),
        metrics_listen: Some(SocketAddr::from(([127, 0, 0, 1], 2))),
        device: Device::Cpu,
        device_memory_bytes_max: 1,
        backend: CpuBackend::Cpu,
        precision: Precision::Int8,
        compute_threads: 1,
        cache_dir: Some(PathBuf::from("cache")),
        default_deadline: std::time::Duration::from_secs(1),
        tokenizer_threads: 1,
        model: vec![ModelConfig { name: "name".to_owned(), source: "default".to_owned() }],
        tenant: vec![TenantConfig { name: "name".to_owned(), token: "token".into(), ..TenantConfig::default() }],
        grpc: GrpcConfig::default(),
        limits: Limits::default(),
        admission: AdmissionConfig::default(),
        scheduler: SchedulerConfig { cost_file: Some(PathBuf::from("costs")), ..SchedulerConfig::default() },
        token_store: TokenStoreConfig { dir: Some(PathBuf::from("tokens")), ..TokenStoreConfig::default() },
        score_cache: ScoreCacheConfig::default(),
        drain: DrainConfig::default(),
        log: LogConfig::default(),
    }
}

/// Paths of all keys that are not tables themselves; elements of arrays count as one.
fn keys(prefix: &str, table: &toml::Table) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match value {
            toml::Value::Table(table) => found.extend(keys(&format!("{path}."), table)),
            toml::Value::Array(array) => {
                for table in array.iter().filter_map(toml::Value::as_table) {
                    found.extend(keys(&format!("{path}."), table));
                }
            }
            _ => drop(found.insert(path)),
        }
    }
    found
}

fn parsed(text: &str) -> toml::Table {
    text.parse().expect("TOML")
}

#[test]
fn the_example_is_the_default() {
    let config = load(example()).expect("no faults");
    assert_eq!(render(&config), render(&ServerConfig::default()));
}

#[test]
fn the_example_says_every_key() {
    let text = example();
    let by_default = keys("", &parsed(&render(&ServerConfig::default())));
    assert_eq!(keys("", &parsed(&text)), by_default, "keys that are set");
    let every = keys("", &parsed(&render(&everything_set())));
    assert!(every.is_superset(&by_default) && every.len() > by_default.len());
    assert_eq!(keys("", &parsed(&uncommented(&text))), every, "keys that are set or commented out");
    load(uncommented(&text)).expect("what is commented out is right too");
}

#[test]
fn each_key_has_a_comment_of_its_own() {
    let text = example();
    let lines: Vec<&str> = text.lines().collect();
    let explained = |at: usize| at > 0 && lines[at - 1].starts_with("# ") && key(lines[at - 1]).is_none();
    let without: Vec<&str> =
        (0..lines.len()).filter(|&at| key(lines[at]).is_some() && !explained(at)).map(|at| lines[at]).collect();
    assert_eq!(without, Vec::<&str>::new(), "settings with no comment right above them");
}

#[test]
fn what_the_processor_alone_does_is_not_asked_of_a_cuda_device() {
    let check = |text: &str, expected: Result<(), &str>| {
        let found = load(text.to_owned()).map(drop).map_err(|faults| faults.to_string());
        match (&found, expected) {
            (Ok(()), Ok(())) => {}
            (Err(found), Err(begin)) if found.contains(begin) => {}
            _ => panic!("{text:?}: {found:?}, expected {expected:?}"),
        }
    };
    for device in ["cuda", "cuda:1", "cuda:0,1", "cuda:all"] {
        let device = format!("device = \"{device}\"\n");
        check(&device, Ok(()));
        check(&format!("{device}backend = \"candle\"\n"), Err("backend: candle computes on the processor"));
        check(&format!("{device}precision = \"int8\"\n"), Err("precision: is the processor's"));
        check(&format!("{device}precision = \"f16\"\n"), Ok(()));
    }
    for device in ["auto", "cpu"] {
        check(&format!("device = \"{device}\"\nbackend = \"candle\"\n"), Ok(()));
        for precision in ["f16", "int8"] {
            check(&format!("device = \"{device}\"\nprecision = \"{precision}\"\n"), Ok(()));
            let candle = format!("device = \"{device}\"\nbackend = \"candle\"\nprecision = \"{precision}\"\n");
            check(&candle, Err("precision: candle keeps"));
        }
    }
}

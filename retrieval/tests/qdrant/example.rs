//! The example configuration: it loads, it says every default, and it says them right.

use std::path::Path;

use sluice_retrieval::{
    config::{EngineKind, ShardConfig},
    qdrant::QdrantConfig,
};
use sluice_service::config::{ConfigFile, Layers, load_and_check};

#[test]
fn it_says_every_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/qdrant/shard.toml");
    let text = std::fs::read_to_string(&path).expect("deploy/qdrant/shard.toml is there");
    let layers = Layers { file: Some(ConfigFile { path, text: text.clone() }), ..Layers::default() };
    let config: ShardConfig = load_and_check(&layers, ShardConfig::faults).expect("it loads");
    assert_eq!((config.engine, config.data), (EngineKind::Qdrant, None));
    let defaults = QdrantConfig { url: config.qdrant.url.clone(), ..QdrantConfig::default() };
    assert_eq!(format!("{:?}", config.qdrant), format!("{defaults:?}"));
    let keys = toml::Table::try_from(&defaults).expect("a table");
    for key in keys.keys().filter(|key| *key != "api_key") {
        assert!(text.contains(&format!("\n{key} = ")), "{key} is not said");
    }
}

//! How good the order of words' legs is on judged collections, where they are beside the workspace.

use std::{collections::HashMap, fs, path::Path};

use serde::Deserialize;
use sluice_core::evaluate::{Metric, Qrels, Run, evaluate};
use sluice_proto::retrieval::v1 as wire;

use crate::{
    cluster::TestCluster,
    common::{lexical, search, upsert},
    served::over,
};

/// Set to anything, it turns the absence of the collections from a skip into a failure.
const REQUIRE_SHARED: &str = "SLUICE_REQUIRE_SHARED";

#[derive(Deserialize)]
struct Text {
    id: String,
    #[serde(default)]
    title: String,
    text: String,
}

fn lines(path: &Path) -> Vec<Text> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn check(collection: &str, ndcg_min: f64, recall_min: f64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(collection);
    if !folder.exists() {
        assert!(
            std::env::var_os(REQUIRE_SHARED).is_none(),
            "{REQUIRE_SHARED} is set, and there is no {}",
            folder.display()
        );
        eprintln!("skipped: there is no {}", folder.display());
        return;
    }
    let cluster = TestCluster::start().await;
    let mut served = over(&cluster).await;
    let text = |name: &str| wire::TextField { name: name.to_owned(), boost: None, language: String::new() };
    let schema = wire::Schema { texts: vec![text("title"), text("text")], ..wire::Schema::default() };
    let create = wire::CreateCollectionRequest { name: collection.to_owned(), schema: Some(schema) };
    served.client.create_collection(create).await.expect("created");
    for batch in lines(&folder.join("corpus.jsonl")).chunks(500) {
        let documents = batch.iter().map(|document| wire::Document {
            id: document.id.clone(),
            texts: HashMap::from(
                [("title", &document.title), ("text", &document.text)]
                    .map(|(name, text)| (name.to_owned(), text.clone())),
            ),
            ..wire::Document::default()
        });
        upsert(&mut served.client, collection, documents.collect()).await;
    }
    let mut run = Run::default();
    for query in lines(&folder.join("queries.jsonl")) {
        let leg = wire::Leg { k: 100, ..lexical(&query.text) };
        let request = wire::SearchRequest { limit: 100, ..search(collection, vec![leg]) };
        let found = served.client.search(request).await.expect("found").into_inner();
        run.insert(&query.id, found.hits.into_iter().map(|hit| hit.id).collect()).unwrap();
    }
    let qrels = Qrels::parse(&fs::read_to_string(folder.join("qrels.txt")).unwrap()).unwrap();
    let metrics: [Metric; 2] = ["ndcg@10", "recall@100"].map(|name| name.parse().unwrap());
    let report = evaluate(&qrels, &run, &metrics);
    eprintln!("{collection}, {} queries: {:?}", report.queries, report.metrics);
    let [ndcg, recall] = [0, 1].map(|metric| report.metrics[metric].1);
    assert!(ndcg >= ndcg_min, "{collection}: nDCG@10 {ndcg}");
    assert!(recall >= recall_min, "{collection}: recall@100 {recall}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scifact() {
    check("scifact", 0.670, 0.905).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cranfield() {
    check("cranfield", 0.510, 0.735).await;
}

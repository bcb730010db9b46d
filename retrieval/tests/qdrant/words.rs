//! How good the order of words' legs is on judged collections, where they are beside the workspace.

use std::collections::HashMap;

use sluice_core::evaluate::Run;
use sluice_proto::retrieval::v1 as wire;

use crate::{
    cluster::TestCluster,
    common::{lexical, search, upsert},
    judged::{self, lines},
    served::over,
};

async fn check(collection: &str, ndcg_min: f64, recall_min: f64) {
    let Some(folder) = judged::folder(collection) else { return };
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
    judged::check(&folder, &run, ndcg_min, recall_min);
}

#[tokio::test(flavor = "multi_thread")]
async fn scifact() {
    check("scifact", 0.670, 0.905).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cranfield() {
    check("cranfield", 0.510, 0.735).await;
}

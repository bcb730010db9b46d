//! `sluice.rerank.v1.TokenStoreService`.

use std::collections::HashMap;

use sluice_core::{Lane, Operation, Priority, Worth, cost::BatchShape};
use sluice_proto::rerank::v1::{
    CollectionStats, CompactRequest, CompactResponse, DeleteRequest, DeleteResponse, PutRequest, PutResponse,
    StatsRequest, StatsResponse, StoredTokens, TokenStorage, token_store_service_server::TokenStoreService,
};
use sluice_service::status::Refusal;
use sluice_tokenstore::{ModelDigest, Namespace};
use tonic::{Request, Response, Status};

use super::{
    App, Warm,
    call::{Call, Caller, fault},
};
use crate::{
    engine::permit::{Permit, Texts},
    job::{NewContent, NewDocument, PutJob, StoredAs},
    models::Model,
    prepare::Spelled,
    store::{Batch, BatchDocument, Store, stored_as},
    validate,
    vectors::OwnedVectors,
};

#[tonic::async_trait]
impl TokenStoreService for App {
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let call = Call::begin("Put", &request, self)?;
        let caller = call.caller;
        let work = async { self.put_documents(request.into_inner(), caller).await };
        call.run(Box::pin(work)).await.map(Response::new)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let call = Call::begin("Delete", &request, self)?;
        let caller = call.caller;
        let work = async {
            let job = validate::delete(request.into_inner(), &self.0.limits)?;
            let bytes = job.ids.iter().map(|id| id.len() as u64).sum();
            let permit = self.admit_aside(caller, job.ids.len(), bytes)?;
            Ok(DeleteResponse { deleted: self.store()?.delete(job, permit).await? })
        };
        call.run(Box::pin(work)).await.map(Response::new)
    }

    async fn stats(&self, request: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        let call = Call::begin("Stats", &request, self)?;
        let work = async {
            let namespace = validate::namespace_or_all(&request.into_inner().namespace)?;
            self.stored(self.store()?, namespace.as_ref())
        };
        call.run(Box::pin(work)).await.map(Response::new)
    }

    async fn compact(&self, request: Request<CompactRequest>) -> Result<Response<CompactResponse>, Status> {
        let call = Call::begin("Compact", &request, self)?;
        let work = async {
            let namespace = validate::namespace_or_all(&request.into_inner().namespace)?;
            let done = self.store()?.compact(namespace).await?;
            Ok(CompactResponse {
                reclaimed_bytes: done.bytes_before.saturating_sub(done.bytes_after),
                rewritten_segments: u32::try_from(done.segments_before).unwrap_or(u32::MAX),
            })
        };
        call.run(Box::pin(work)).await.map(Response::new)
    }
}

impl App {
    fn store(&self) -> Result<&Store, Refusal> {
        self.warm()?.store.as_ref().ok_or(Refusal::FailedPrecondition {
            reason: "NO_TOKEN_STORE",
            message: "this server keeps no token vectors: token_store.dir is not set".to_owned(),
        })
    }

    async fn put_documents(&self, request: PutRequest, caller: Caller) -> Result<PutResponse, Refusal> {
        let store = self.store()?;
        let warm = self.warm()?;
        let job = validate::put(request, &warm.models, &self.0.limits)?;
        store.check_writable()?;
        let model = warm.models.get(job.model);
        store.check_layout(&job.namespace, model.digest, (job.storage, model.info.embedding_dim as usize))?;
        let lane = Lane { model: job.model, operation: Operation::EncodeTokens };
        let terms = self.terms(caller, Priority::Bulk, Worth::Whole);
        let text = |document: &NewDocument| match &document.content {
            NewContent::Text(text) => Some(text.len() as u64),
            NewContent::Vectors(_) => None,
        };
        let lengths = || job.documents.iter().filter_map(text);
        let texts = Texts {
            lane,
            count: lengths().count() as u64,
            bytes: lengths().sum(),
            tokens_max: model.tokens_max() as u64,
        };
        let permit = self.admit(terms, texts, job.documents.len(), job.bytes())?;
        let spelled = self.spell_new(&job, model).await?;
        let lengths = || spelled.iter().map(|text| u32::try_from(text.ids.len()).unwrap_or(u32::MAX));
        let computed_tokens = lengths().map(u64::from).sum();
        self.check_size(&job, computed_tokens)?;
        let work = [(lane, BatchShape::of_all(lengths()))];
        let (permit, mut admitted) = self.admit_tokens(permit, computed_tokens, &work)?;
        let put = self.put_admitted(warm, store, job, spelled, permit).await;
        admitted.end(put.as_ref().err());
        let (model, model_digest) = (model.name.clone(), model.info.digest.clone());
        Ok(PutResponse { documents: put?, computed_tokens, model, model_digest })
    }

    /// The texts among the documents, in order.
    async fn spell_new(&self, job: &PutJob, model: &Model) -> Result<Vec<Spelled>, Refusal> {
        let text = |document: &NewDocument| match &document.content {
            NewContent::Text(text) => Some(text.clone()),
            NewContent::Vectors(_) => None,
        };
        let texts = job.documents.iter().filter_map(text).collect();
        self.0.preparer.spell(texts, &model.text, model.tokens_max()).await
    }

    /// All vectors of a put are in memory at once.
    fn check_size(&self, job: &PutJob, computed_tokens: u64) -> Result<(), Refusal> {
        use sluice_core::batch::TokenVectors;

        let rows = |document: &NewDocument| match &document.content {
            NewContent::Text(_) => 0,
            NewContent::Vectors(vectors) => vectors.rows() as u64,
        };
        let vectors = computed_tokens + job.documents.iter().map(rows).sum::<u64>();
        let most = self.0.limits.put_vectors_max as u64;
        if vectors > most {
            return Err(fault("documents", format!("have {vectors} tokens together, a put takes {most} at most")));
        }
        Ok(())
    }

    async fn put_admitted(
        &self,
        warm: &Warm,
        store: &Store,
        job: PutJob,
        spelled: Vec<Spelled>,
        permit: Permit,
    ) -> Result<Vec<StoredTokens>, Refusal> {
        // All vectors of a put are in memory from here on; the request's own room is held until they are on disk.
        let turn = store.turn().await;
        let borrowed = self.0.permits.borrowed(permit.terms());
        // The scheduler hears of all of it now.
        permit.queued();
        let truncated: Vec<bool> = spelled.iter().map(|text| text.truncated).collect();
        let sequences = spelled.into_iter().map(|text| text.ids).collect();
        let matrices = self.token_matrices(warm, job.model, sequences, borrowed).await?;
        let mut encoded = matrices.into_iter().zip(truncated);
        let mut documents = Vec::with_capacity(job.documents.len());
        for NewDocument { id, content, content_hash } in job.documents {
            let (vectors, truncated) = match content {
                NewContent::Vectors(vectors) => (vectors, false),
                NewContent::Text(_) => {
                    let (matrix, truncated) = encoded.next().ok_or(Refusal::Internal)?;
                    (OwnedVectors::from(matrix), truncated)
                }
            };
            documents.push(BatchDocument { id, content_hash, truncated, vectors });
        }
        let stored = documents.iter().map(stored_tokens).collect();
        let model = warm.models.get(job.model);
        let dim = model.info.embedding_dim as usize;
        let (namespace, storage) = (job.namespace, job.storage);
        store.put(Batch { namespace, model: model.digest, dim, storage, documents }, (permit, turn)).await?;
        Ok(stored)
    }

    fn stored(&self, store: &Store, namespace: Option<&Namespace>) -> Result<StatsResponse, Refusal> {
        let models = &self.warm()?.models;
        let names: HashMap<ModelDigest, &str> =
            models.iter().map(|(_, model)| (model.digest, model.name.as_str())).collect();
        let stats = store.stats();
        let collections = stats.collections.into_iter();
        let collections = collections.filter(|found| namespace.is_none_or(|namespace| found.namespace == *namespace));
        let collections = collections.map(|found| CollectionStats {
            model_digest: found.model.to_string(),
            model: names.get(&found.model).map(ToString::to_string).unwrap_or_default(),
            namespace: found.namespace.to_string(),
            storage: wire_storage(stored_as(found.layout.storage())).into(),
            dim: u32::try_from(found.layout.dim()).unwrap_or(u32::MAX),
            documents: found.documents,
            tokens: found.rows,
            live_bytes: found.live_bytes,
            dead_bytes: found.dead_bytes,
            segments: u32::try_from(found.segments).unwrap_or(u32::MAX),
        });
        Ok(StatsResponse { collections: collections.collect(), corrupt_records: stats.corrupt_records })
    }
}

fn stored_tokens(document: &BatchDocument) -> StoredTokens {
    use sluice_core::batch::TokenVectors;

    StoredTokens {
        id: document.id.clone(),
        tokens: u32::try_from(document.vectors.rows()).unwrap_or(u32::MAX),
        truncated: document.truncated,
        content_hash: document.content_hash.0.to_vec(),
    }
}

fn wire_storage(storage: StoredAs) -> TokenStorage {
    match storage {
        StoredAs::F16 => TokenStorage::F16,
        StoredAs::Int8 => TokenStorage::Int8,
        StoredAs::Binary => TokenStorage::Binary,
    }
}

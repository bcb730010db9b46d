//! `sluice.retrieval.v1.RetrievalService`: what each call is, in a line or two.

use std::pin::Pin;

use sluice_proto::retrieval::v1::{
    CreateCollectionRequest, CreateCollectionResponse, DeleteAliasRequest, DeleteAliasResponse, DeleteRequest,
    DeleteResponse, DropCollectionRequest, DropCollectionResponse, ExplainRequest, ExplainResponse, GetRequest,
    GetResponse, ListCollectionsRequest, ListCollectionsResponse, RestoreRequest, RestoreResponse, SearchRequest,
    SearchResponse, SearchStreamResponse, SetAliasRequest, SetAliasResponse, SnapshotRequest, SnapshotResponse,
    StatsRequest, StatsResponse, UpsertRequest, UpsertResponse, retrieval_service_server::RetrievalService,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{App, call::Call};

/// Runs a unary call: `unary!(self, "Rpc", request, method)` answers with `self.method(message, deadline)`.
macro_rules! unary {
    ($app:expr, $rpc:literal, $request:expr, $method:ident) => {{
        let call = Call::begin($rpc, &$request, $app)?;
        let deadline = call.deadline;
        let work = $app.$method($request.into_inner(), deadline);
        call.run(Box::pin(work)).await.map(Response::new)
    }};
}

#[tonic::async_trait]
impl RetrievalService for App {
    type UpsertStream = Pin<Box<dyn Stream<Item = Result<UpsertResponse, Status>> + Send>>;
    type SearchStreamStream = Pin<Box<dyn Stream<Item = Result<SearchStreamResponse, Status>> + Send>>;

    async fn upsert(&self, request: Request<Streaming<UpsertRequest>>) -> Result<Response<Self::UpsertStream>, Status> {
        let call = Call::begin_stream("Upsert", &request)?;
        let answers = self.upsert_batches(call, request.into_inner());
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        unary!(self, "Delete", request, delete_documents)
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        unary!(self, "Get", request, get_documents)
    }

    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<SearchResponse>, Status> {
        let call = Call::begin("Search", &request, self)?;
        let (arrival, deadline) = (call.arrival, call.deadline);
        let work = self.search_once(request.into_inner(), arrival, deadline);
        call.run(Box::pin(work)).await.map(Response::new)
    }

    async fn search_stream(
        &self,
        request: Request<SearchRequest>,
    ) -> Result<Response<Self::SearchStreamStream>, Status> {
        let call = Call::begin("SearchStream", &request, self)?;
        let updates = self.search_updates(call, request.into_inner());
        Ok(Response::new(Box::pin(ReceiverStream::new(updates))))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        unary!(self, "Explain", request, explain_documents)
    }

    async fn stats(&self, request: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        unary!(self, "Stats", request, collection_stats)
    }

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<SnapshotResponse>, Status> {
        unary!(self, "Snapshot", request, snapshot_collection)
    }

    async fn restore(&self, request: Request<RestoreRequest>) -> Result<Response<RestoreResponse>, Status> {
        unary!(self, "Restore", request, restore_collection)
    }

    async fn create_collection(
        &self,
        request: Request<CreateCollectionRequest>,
    ) -> Result<Response<CreateCollectionResponse>, Status> {
        unary!(self, "CreateCollection", request, create)
    }

    async fn drop_collection(
        &self,
        request: Request<DropCollectionRequest>,
    ) -> Result<Response<DropCollectionResponse>, Status> {
        unary!(self, "DropCollection", request, drop_whole)
    }

    async fn list_collections(
        &self,
        request: Request<ListCollectionsRequest>,
    ) -> Result<Response<ListCollectionsResponse>, Status> {
        unary!(self, "ListCollections", request, list)
    }

    async fn set_alias(&self, request: Request<SetAliasRequest>) -> Result<Response<SetAliasResponse>, Status> {
        unary!(self, "SetAlias", request, move_alias)
    }

    async fn delete_alias(
        &self,
        request: Request<DeleteAliasRequest>,
    ) -> Result<Response<DeleteAliasResponse>, Status> {
        unary!(self, "DeleteAlias", request, remove_alias)
    }
}

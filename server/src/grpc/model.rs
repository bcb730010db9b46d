//! `sluice.model.v1.ModelService`.

use sluice_proto::model::v1::{
    Capability, GetModelRequest, GetModelResponse, ListModelsRequest, ListModelsResponse, Model as WireModel,
    model_service_server::ModelService,
};
use sluice_service::status::Refusal;
use tonic::{Request, Response, Status};

use super::{App, call::Call};
use crate::models::Model;

#[tonic::async_trait]
impl ModelService for App {
    async fn list_models(&self, request: Request<ListModelsRequest>) -> Result<Response<ListModelsResponse>, Status> {
        let call = Call::begin("ListModels", &request, self)?;
        let list = async {
            let models = &self.warm()?.models;
            Ok(models.iter().map(|(index, model)| describe(model, index.0 == 0)).collect())
        };
        call.run(list).await.map(|models| Response::new(ListModelsResponse { models }))
    }

    async fn get_model(&self, request: Request<GetModelRequest>) -> Result<Response<GetModelResponse>, Status> {
        let call = Call::begin("GetModel", &request, self)?;
        let name = request.into_inner().name;
        let get = async {
            let unknown = || Refusal::NotFound { resource_type: "model", name: name.clone() };
            let (index, model) = self.warm()?.models.find(&name).ok_or_else(unknown)?;
            Ok(describe(model, index.0 == 0))
        };
        call.run(get).await.map(|model| Response::new(GetModelResponse { model: Some(model) }))
    }
}

fn describe(model: &Model, is_default: bool) -> WireModel {
    let info = &model.info;
    let offers = [
        (info.late_interaction, Capability::LateInteraction),
        (info.dense, Capability::Dense),
        (info.cross_encoder, Capability::CrossEncoder),
        (info.encode_tokens, Capability::EncodeTokens),
        (info.encode_dense, Capability::EncodeDense),
    ];
    WireModel {
        name: model.name.clone(),
        digest: info.digest.clone(),
        source: info.source.clone(),
        architecture: info.architecture.clone(),
        backend: info.backend.to_owned(),
        capabilities: offers.into_iter().filter(|(offered, _)| *offered).map(|(_, offer)| offer.into()).collect(),
        max_tokens: info.max_tokens,
        embedding_dim: info.embedding_dim,
        parameters: info.parameters,
        is_default,
    }
}

//! The fake server's models, and what it makes of texts.

use sluice_client::proto::{
    model::v1::{
        Capability, DataType, Embedding, EncodeRequest, EncodeResponse, EncodedText, GetModelRequest, GetModelResponse,
        ListModelsRequest, ListModelsResponse, Model, TokenizeRequest, TokenizeResponse, TokenizedText,
        encode_service_server::EncodeService, model_service_server::ModelService,
    },
    rerank::v1::RerankRequest,
};
use tonic::{Request, Response, Status};

use super::{Service, Step};

pub(crate) fn models() -> Vec<Model> {
    let model = |name: &str, is_default, capabilities: &[Capability]| Model {
        name: name.into(),
        digest: "0123456789abcdef".repeat(4),
        source: "scripted:test.toml".into(),
        architecture: "BertModel".into(),
        backend: "scripted".into(),
        capabilities: capabilities.iter().map(|capability| *capability as i32).collect(),
        max_tokens: 256,
        embedding_dim: 384,
        parameters: 22_700_000,
        is_default,
    };
    vec![
        model("mini", true, &[Capability::LateInteraction, Capability::Dense]),
        model("cross", false, &[Capability::CrossEncoder]),
    ]
}

#[tonic::async_trait]
impl ModelService for Service {
    async fn list_models(&self, call: Request<ListModelsRequest>) -> Result<Response<ListModelsResponse>, Status> {
        let step = self.arrive(&call, RerankRequest::default());
        self.unary(step).await?;
        Ok(Response::new(ListModelsResponse { models: models() }))
    }

    async fn get_model(&self, call: Request<GetModelRequest>) -> Result<Response<GetModelResponse>, Status> {
        let step = self.arrive(&call, RerankRequest::default());
        if let Some(Step::Incomplete) = self.unary(step).await? {
            return Ok(Response::new(GetModelResponse { model: None }));
        }
        let name = &call.get_ref().name;
        let model = models().into_iter().find(|model| model.name == *name || name.is_empty() && model.is_default);
        match model {
            Some(model) => Ok(Response::new(GetModelResponse { model: Some(model) })),
            None => Err(Status::not_found(format!("no model `{name}`"))),
        }
    }
}

#[tonic::async_trait]
impl EncodeService for Service {
    /// Embeds a text as its length and 1.
    async fn encode(&self, call: Request<EncodeRequest>) -> Result<Response<EncodeResponse>, Status> {
        let step = self.arrive(&call, RerankRequest::default());
        self.unary(step).await?;
        let embed = |text: &String| {
            let row = [text.len() as f32, 1.0];
            let data: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
            let embedding = Embedding {
                data: data.into(),
                dtype: DataType::F32 as i32,
                rows: 1,
                dim: 2,
                scales: Vec::new().into(),
            };
            EncodedText { embedding: Some(embedding), tokens: 1, truncated: false }
        };
        let results = call.get_ref().texts.iter().map(embed).collect();
        Ok(Response::new(EncodeResponse { results, ..EncodeResponse::default() }))
    }

    /// A token for each word, called by its length.
    async fn tokenize(&self, call: Request<TokenizeRequest>) -> Result<Response<TokenizeResponse>, Status> {
        let step = self.arrive(&call, RerankRequest::default());
        self.unary(step).await?;
        let split = |text: &String| {
            let tokens: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            TokenizedText { ids: tokens.iter().map(|token| token.len() as u32).collect(), tokens }
        };
        Ok(Response::new(TokenizeResponse { results: call.get_ref().texts.iter().map(split).collect() }))
    }
}

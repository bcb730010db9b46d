//! Embeddings, tokens and models.

use half::f16;
use sluice_proto::model::v1::{
    Capability, DataType, Embedding, EmbeddingKind, EncodeRequest, EncodeResponse, GetModelRequest, ListModelsRequest,
    TokenizeRequest,
};
use sluice_server::config::ModelConfig;
use tonic::Code;

use super::common::{SCRIPT, TestServer, fields};

const DIM: usize = 16;
const TEXTS: [&str; 4] = ["red apple", "one two three four five six", "", "Red APPLE"];

fn asked(kind: EmbeddingKind, dtype: DataType, max_tokens: u32) -> EncodeRequest {
    let texts = TEXTS.map(str::to_owned).to_vec();
    EncodeRequest { model: String::new(), texts, kind: kind.into(), dtype: dtype.into(), max_tokens }
}

async fn encode(server: &TestServer, request: EncodeRequest) -> EncodeResponse {
    server.encode().await.encode(request).await.expect("it is valid").into_inner()
}

/// The components, after checking that there are as many as is said.
fn components(embedding: &Embedding) -> Vec<f32> {
    let count = (embedding.rows * embedding.dim) as usize;
    let data = &embedding.data;
    let components: Vec<f32> = match embedding.dtype() {
        DataType::F32 => {
            data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four"))).collect()
        }
        DataType::F16 => {
            data.chunks_exact(2).map(|bytes| f16::from_le_bytes(bytes.try_into().expect("two")).to_f32()).collect()
        }
        DataType::I8 => {
            let scale = |row| f32::from_le_bytes(embedding.scales[4 * row..][..4].try_into().expect("four"));
            let code = |(i, byte): (usize, &u8)| f32::from(byte.cast_signed()) * scale(i / embedding.dim as usize);
            data.iter().enumerate().map(code).collect()
        }
        DataType::Unspecified => unreachable!("an answer says what it is"),
    };
    let size = match embedding.dtype() {
        DataType::F32 => 4,
        DataType::F16 => 2,
        _ => 1,
    };
    assert_eq!((components.len(), data.len()), (count, count * size));
    components
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[tokio::test]
async fn each_text_becomes_one_vector_or_one_for_each_token() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    // Tokens with the two special ones.
    let tokens = [4, 8, 2, 4];
    for (kind, dense) in
        [(EmbeddingKind::Dense, true), (EmbeddingKind::Unspecified, true), (EmbeddingKind::Token, false)]
    {
        let exact = encode(&server, asked(kind, DataType::F32, 0)).await;
        assert_eq!(exact.model, "model");
        assert_eq!(exact.results.len(), TEXTS.len());
        for (result, tokens) in exact.results.iter().zip(tokens) {
            let embedding = result.embedding.as_ref().expect("always there");
            assert_eq!((result.tokens, result.truncated), (tokens, false));
            assert_eq!((embedding.rows, embedding.dim), (if dense { 1 } else { tokens }, DIM as u32), "{kind:?}");
            for row in components(embedding).chunks_exact(DIM) {
                assert!((norm(row) - 1.0).abs() < 1e-5, "{kind:?} {row:?}");
            }
        }
        assert_eq!(exact.results[0].embedding, exact.results[3].embedding, "the scripted tokenizer folds case");
        assert_ne!(exact.results[0].embedding, exact.results[1].embedding);

        let default = encode(&server, asked(kind, DataType::Unspecified, 0)).await;
        assert_eq!(default, exact, "F32 where nothing is said");
        // Half a step of f16 below 1; of 1/127 of the largest component.
        for (dtype, tolerance) in [(DataType::F16, 2.5e-4), (DataType::I8, 0.5 / 127.0 + 1e-6)] {
            let small = encode(&server, asked(kind, dtype, 0)).await;
            for (small, exact) in small.results.iter().zip(&exact.results) {
                let pair = [small, exact].map(|result| components(result.embedding.as_ref().expect("always there")));
                let [small, exact] = pair;
                let close = small.iter().zip(&exact).all(|(small, exact)| (small - exact).abs() <= tolerance);
                assert!(close, "{dtype:?} {small:?} {exact:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_token_vector_belongs_to_its_token() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let answer = encode(&server, asked(EmbeddingKind::Token, DataType::F32, 0)).await;
    let rows: Vec<Vec<Vec<f32>>> = answer
        .results
        .iter()
        .map(|result| components(result.embedding.as_ref().expect("there")).chunks(DIM).map(<[f32]>::to_vec).collect())
        .collect();
    let (start, end) = (&rows[2][0], &rows[2][1]);
    for text in &rows {
        assert_eq!((text.first(), text.last()), (Some(start), Some(end)), "special tokens included, in their places");
    }
    assert_eq!(rows[0][1..3], rows[3][1..3]);
    assert_ne!(rows[0][1], rows[0][2]);
}

#[tokio::test]
async fn texts_are_cut_where_asked_and_say_so() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    for kind in [EmbeddingKind::Dense, EmbeddingKind::Token] {
        for (max_tokens, tokens, truncated) in [
            (2, [2, 2, 2, 2], [true, true, false, true]),
            (4, [4, 4, 2, 4], [false, true, false, false]),
            (7, [4, 7, 2, 4], [false, true, false, false]),
            (8, [4, 8, 2, 4], [false; 4]),
            (9_999, [4, 8, 2, 4], [false; 4]),
        ] {
            let answer = encode(&server, asked(kind, DataType::F32, max_tokens)).await;
            for (index, result) in answer.results.iter().enumerate() {
                let expected = (tokens[index], truncated[index]);
                assert_eq!((result.tokens, result.truncated), expected, "{kind:?}, {max_tokens} of text {index}");
                let rows = result.embedding.as_ref().expect("there").rows;
                assert_eq!(rows, if kind == EmbeddingKind::Token { result.tokens } else { 1 });
            }
        }
        let long = EncodeRequest { texts: vec!["w ".repeat(100)], ..asked(kind, DataType::F32, 0) };
        let result = &encode(&server, long).await.results[0];
        assert_eq!((result.tokens, result.truncated), (64, true), "the model's own maximum");
        let status = server.encode().await.encode(asked(kind, DataType::F32, 1)).await.expect_err("no room");
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["max_tokens".to_owned()]));
    }
}

#[tokio::test]
async fn a_text_is_split_into_its_tokens() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let long = "w ".repeat(100);
    let texts: Vec<_> = TEXTS.into_iter().chain([long.as_str()]).map(str::to_owned).collect();
    let ask = |add_special_tokens| TokenizeRequest { model: String::new(), texts: texts.clone(), add_special_tokens };
    let mut client = server.encode().await;
    let plain = client.tokenize(ask(false)).await.expect("valid").into_inner().results;
    let special = client.tokenize(ask(true)).await.expect("valid").into_inner().results;
    assert_eq!(plain.iter().map(|text| text.ids.len()).collect::<Vec<_>>(), [2, 6, 0, 2, 100], "never truncated");
    assert_eq!(plain[0], plain[3], "the scripted tokenizer folds case");
    for (plain, special) in plain.iter().zip(&special) {
        assert_eq!([&[0], plain.ids.as_slice(), &[1]].concat(), special.ids, "start and end of the scripted tokenizer");
        for text in [plain, special] {
            let expected: Vec<_> = text.ids.iter().map(|id| format!("#{id:08x}")).collect();
            assert_eq!(text.tokens, expected, "scripted tokens are known by their ids");
        }
    }
    // What Encode reads is what Tokenize says.
    let encoded = encode(&server, asked(EmbeddingKind::Token, DataType::F32, 0)).await.results;
    for (encoded, split) in encoded.iter().zip(&special) {
        assert_eq!(encoded.tokens as usize, split.ids.len());
    }
}

#[tokio::test]
async fn models_are_listed_as_configured_and_found_by_name() {
    use Capability::{CrossEncoder, Dense, EncodeDense, EncodeTokens, LateInteraction};
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("second.toml");
    std::fs::write(&file, "max_tokens = 32\ndim = 8\ncapabilities = [\"encode_dense\", \"dense\"]\n").expect("written");
    let source = format!("scripted:{}", file.display());
    let second = ModelConfig { name: "a second one".to_owned(), source: source.clone() };
    let server = TestServer::scripted(SCRIPT, |config| config.model.push(second)).await;
    let mut client = server.models().await;
    let models = client.list_models(ListModelsRequest {}).await.expect("it lists").into_inner().models;
    let seen: Vec<_> = models.iter().map(|model| (model.name.as_str(), model.is_default)).collect();
    assert_eq!(seen, [("model", true), ("a second one", false)], "in the order of the configuration");
    assert_eq!(
        models[0].capabilities().collect::<Vec<_>>(),
        [LateInteraction, Dense, CrossEncoder, EncodeTokens, EncodeDense],
        "in the order of the enum"
    );
    let second = &models[1];
    assert_eq!(second.capabilities().collect::<Vec<_>>(), [Dense, EncodeDense]);
    assert_eq!((second.max_tokens, second.embedding_dim, second.parameters), (32, 8, 0));
    assert_eq!((second.source.as_str(), second.architecture.as_str()), (source.as_str(), "scripted"));
    assert_eq!(second.backend, "scripted");
    for model in &models {
        assert!(model.digest.len() == 64 && model.digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{model:?}");
    }
    assert_ne!(models[0].digest, models[1].digest);
    for (name, expected) in [("", 0), ("model", 0), ("a second one", 1)] {
        let found = client.get_model(GetModelRequest { name: name.to_owned() }).await.expect("it is there");
        assert_eq!(found.into_inner().model.as_ref(), Some(&models[expected]), "{name:?}");
    }

    let ask = |model: &str| EncodeRequest { model: model.to_owned(), ..asked(EmbeddingKind::Dense, DataType::F32, 0) };
    for (model, dim) in [("model", 16), ("a second one", 8)] {
        let answer = encode(&server, ask(model)).await;
        assert_eq!((answer.model.as_str(), answer.results[0].embedding.as_ref().expect("there").dim), (model, dim));
    }
    let tokens = EncodeRequest { kind: EmbeddingKind::Token.into(), ..ask("a second one") };
    let status = server.encode().await.encode(tokens).await.expect_err("it makes no token vectors");
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["kind".to_owned()]));
}

//! Why a score is what it is.

use sluice_inference::testing::default_model;
use sluice_proto::rerank::v1::{
    DocumentSource, ExplainRequest, ExplainResponse, Method, RerankRequest, StoredDocument, document,
};
use tonic::Code;

use super::{
    common::{SCRIPT, TestServer, document, fields, query, request},
    vectors::{floats, maxsim, scores, vector_query, vectors},
};

const QUESTION: &str = "Red fruit";
const TEXTS: [&str; 3] = ["A red  apple", "", "unrelated"];

fn asked() -> ExplainRequest {
    let documents = TEXTS.iter().enumerate().map(|(id, text)| document(id, text)).collect();
    ExplainRequest { query: query(QUESTION), documents, ..ExplainRequest::default() }
}

async fn explain(server: &TestServer, request: ExplainRequest) -> ExplainResponse {
    server.rerank().await.explain(request).await.expect("valid").into_inner()
}

#[tokio::test]
async fn matches_add_up_to_the_score_and_name_the_best_token() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let [question] = &vectors(&server, &[QUESTION]).await[..] else { unreachable!("one text") };
    let documents = vectors(&server, &TEXTS).await;
    let dim = question.dim as usize;
    for query_of_vectors in [false, true] {
        let mut request = asked();
        if query_of_vectors {
            request.query = vector_query(question);
        }
        let answer = explain(&server, request).await;
        assert_eq!(answer.query_tokens.len(), question.rows as usize);
        assert_eq!(answer.query_tokens.iter().all(|token| token.text.is_empty()), query_of_vectors);
        for (index, (explained, vectors)) in answer.documents.iter().zip(&documents).enumerate() {
            assert_eq!((explained.id.as_str(), explained.source()), (&*index.to_string(), DocumentSource::Text));
            assert_eq!(explained.tokens.len(), vectors.rows as usize);
            assert_eq!(explained.matches.len(), question.rows as usize);
            let expected = maxsim(&floats(question), &floats(vectors), dim);
            assert!((f64::from(explained.score) - expected).abs() < 1e-5, "{explained:?}");
            let sum: f64 = explained.matches.iter().map(|found| f64::from(found.similarity)).sum();
            assert!((sum - expected).abs() < 1e-5, "{explained:?}");
            for (q, found) in floats(question).chunks_exact(dim).zip(&explained.matches) {
                let row = &floats(vectors)[found.document_token as usize * dim..][..dim];
                let similarity = maxsim(q, row, dim);
                assert!((similarity - f64::from(found.similarity)).abs() < 1e-6, "{found:?}");
                assert!((similarity - maxsim(q, &floats(vectors), dim)).abs() < 1e-6, "{found:?} is not the best");
            }
        }
    }
}

#[tokio::test]
async fn tokens_say_where_they_stand_in_the_text() {
    let Some(model) = default_model() else { return };
    let server = TestServer::model(model.path.display().to_string(), |_| ()).await;
    let answer = explain(&server, asked()).await;
    let spelled = |tokens: &[sluice_proto::rerank::v1::Token], text: &str| -> Vec<(String, String)> {
        let bytes = |token: &sluice_proto::rerank::v1::Token| {
            text[token.byte_start as usize..token.byte_end as usize].to_owned()
        };
        tokens.iter().map(|token| (token.text.clone(), bytes(token))).collect()
    };
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>();
    assert_eq!(
        spelled(&answer.query_tokens, QUESTION),
        pairs(&[("[CLS]", ""), ("red", "Red"), ("fruit", "fruit"), ("[SEP]", "")])
    );
    let document = &answer.documents[0];
    assert_eq!(
        spelled(&document.tokens, TEXTS[0]),
        pairs(&[("[CLS]", ""), ("a", "A"), ("red", "red"), ("apple", "apple"), ("[SEP]", "")])
    );
    assert_eq!([document.matches[1].document_token, document.matches[2].document_token], [2, 3], "red, fruit");
    // The same scores as Rerank gives.
    let asked = RerankRequest { method: Method::LateInteraction.into(), ..request(QUESTION, &TEXTS) };
    let answer_of_rerank = server.rerank().await.rerank(asked).await.expect("valid").into_inner();
    for (explained, score) in answer.documents.iter().zip(scores(&answer_of_rerank)) {
        assert!((explained.score - score).abs() <= 1e-5, "{explained:?}, {score}");
    }
}

#[tokio::test]
async fn what_cannot_be_scored_is_explained_by_its_source() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let mut request = asked();
    let stored = StoredDocument { namespace: "n".to_owned(), ..StoredDocument::default() };
    request.documents[1].content = Some(document::Content::Stored(stored));
    let answer = explain(&server, request).await;
    let nothing = &answer.documents[1];
    assert_eq!((nothing.source(), nothing.score), (DocumentSource::NoneMissing, f32::NEG_INFINITY));
    assert!(nothing.matches.is_empty());
    assert!(answer.documents[2].score.is_finite() && answer.documents[2].matches.len() == 4);
}

#[tokio::test]
async fn explanations_are_for_a_few_documents_of_a_model_that_has_tokens() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let mut client = server.rerank().await;
    let many = ExplainRequest { documents: vec![document("a", "b"); 101], ..asked() };
    let long = ExplainRequest { query: query("word ".repeat(63)), ..asked() };
    let cases = [
        (ExplainRequest { query: None, ..asked() }, "query"),
        (ExplainRequest { documents: Vec::new(), ..asked() }, "documents"),
        (many, "documents"),
        (long, "query.text"),
    ];
    for (request, field) in cases {
        let status = client.explain(request).await.expect_err(field);
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]));
    }
    let dense = TestServer::scripted("max_tokens = 64\ncapabilities = [\"dense\"]\n", |_| ()).await;
    let status = dense.rerank().await.explain(asked()).await.expect_err("no tokens");
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["model".to_owned()]));
}

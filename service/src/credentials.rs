//! What a call says of who makes it.

use tonic::metadata::MetadataMap;

use crate::status::Refusal;

/// Bytes of a token, at most: it is hashed before it is known.
const TOKEN_BYTES_MAX: usize = 4096;
const SCHEME: &str = "bearer ";

/// The token of `authorization: Bearer TOKEN`; `None` for a call without that header.
///
/// # Errors
/// [`Refusal::Unauthenticated`] for a header of any other shape: a caller that tries to say who it is, and fails, is
/// not taken for one that says nothing.
pub fn bearer(metadata: &MetadataMap) -> Result<Option<&str>, Refusal> {
    let mut values = metadata.get_all("authorization").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_at_checked(SCHEME.len())?;
        scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim())
    });
    let usable = |token: &&str| (1..=TOKEN_BYTES_MAX).contains(&token.len());
    match (token.filter(usable), values.next()) {
        (Some(token), None) => Ok(Some(token)),
        _ => Err(Refusal::Unauthenticated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_token_or_a_refusal() {
        let long = format!("Bearer {}", "x".repeat(TOKEN_BYTES_MAX + 1));
        let refused = Err(Refusal::Unauthenticated);
        let cases: [(&[&str], Result<Option<&str>, Refusal>); 9] = [
            (&[], Ok(None)),
            (&["Bearer secret"], Ok(Some("secret"))),
            (&["bearer  secret "], Ok(Some("secret"))),
            (&["Basic c2VjcmV0"], refused.clone()),
            (&["Bearer"], refused.clone()),
            (&["Bearer "], refused.clone()),
            (&[""], refused.clone()),
            (&[&long], refused.clone()),
            (&["Bearer one", "Bearer two"], refused),
        ];
        for (values, expected) in cases {
            let mut metadata = MetadataMap::new();
            for value in values {
                metadata.append("authorization", value.parse().expect("ascii"));
            }
            assert_eq!(bearer(&metadata), expected, "{values:?}");
        }
    }
}

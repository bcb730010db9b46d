//! Whose request it is: tenants by their tokens.
//!
//! A static table, from the configuration. Tokens are kept and compared as SHA-256: how long a look-up takes says
//! nothing of them.

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use sluice_core::TenantId;

use crate::config::TenantConfig;

/// The tenant of everybody, where none are configured.
pub const DEFAULT_TENANT: &str = "default";

/// Everybody who may call.
#[derive(Clone, Debug)]
pub struct Tenants {
    by_token: HashMap<[u8; 32], TenantId>,
    /// Of callers that bring no token; `None` refuses them.
    anonymous: Option<TenantId>,
    names: Vec<String>,
}

impl Tenants {
    /// Tenants in the order of the configuration. Without any, every caller is of the default tenant, whatever token it
    /// brings.
    #[must_use]
    pub fn new(tenants: &[TenantConfig]) -> Self {
        if tenants.is_empty() {
            let names = vec![DEFAULT_TENANT.to_owned()];
            return Self { by_token: HashMap::new(), anonymous: Some(TenantId(0)), names };
        }
        let ids = || (0_u16..).map(TenantId);
        let with_token = ids().zip(tenants).filter(|(_, tenant)| !tenant.token.is_empty());
        Self {
            by_token: with_token.map(|(id, tenant)| (digest(tenant.token.reveal()), id)).collect(),
            anonymous: ids().zip(tenants).find(|(_, tenant)| tenant.token.is_empty()).map(|(id, _)| id),
            names: tenants.iter().map(|tenant| tenant.name.clone()).collect(),
        }
    }

    /// Who has this token; `None` if nobody has.
    #[must_use]
    pub fn find(&self, token: Option<&str>) -> Option<TenantId> {
        match token {
            // Where there are no tokens, one that a proxy adds does no harm.
            Some(token) if !self.by_token.is_empty() => self.by_token.get(&digest(token)).copied(),
            Some(_) | None => self.anonymous,
        }
    }

    /// A tenant's name, for logs and metrics.
    #[must_use]
    pub fn name(&self, tenant: TenantId) -> &str {
        self.names.get(usize::from(tenant.0)).map_or("", String::as_str)
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str, token: &str) -> TenantConfig {
        TenantConfig { name: name.to_owned(), token: token.into(), ..TenantConfig::default() }
    }

    #[test]
    fn a_token_has_one_tenant() {
        let open = Tenants::new(&[]);
        let closed = Tenants::new(&[tenant("a", "ta"), tenant("b", "tb")]);
        let mixed = Tenants::new(&[tenant("a", "ta"), tenant("others", "")]);
        let cases = [
            (&open, None, Some(0)),
            (&open, Some("x"), Some(0)),
            (&closed, None, None),
            (&closed, Some("ta"), Some(0)),
            (&closed, Some("tb"), Some(1)),
            (&closed, Some("t"), None),
            (&mixed, None, Some(1)),
            (&mixed, Some("ta"), Some(0)),
            (&mixed, Some("x"), None),
        ];
        for (tenants, token, expected) in cases {
            assert_eq!(tenants.find(token), expected.map(TenantId), "{token:?} of {tenants:?}");
        }
        assert_eq!((mixed.name(TenantId(1)), open.name(TenantId(0))), ("others", DEFAULT_TENANT));
    }
}

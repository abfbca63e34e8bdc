//! What a layer says of itself in an OpenAPI document.

use std::fmt::Write;

use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};

use super::{ApiKeyLayer, CredentialSources};
use crate::openapi::add_answers;
use crate::scope::Scope;

impl ApiKeyLayer {
    /// How a request may show its key, one alternative for each source, with the scopes that it
    /// needs; and none at all where the layer is [`optional`](ApiKeyLayer::optional).
    ///
    /// The names of the schemes are those that the layer adds to a document as a
    /// [`Modify`](utoipa::Modify).
    ///
    /// ```
    /// # use tower_api_key::{ApiKeyLayer, ApiKeys, MemoryStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let keys = ApiKeys::builder(MemoryStore::new()).build();
    /// let read = ApiKeyLayer::new(&keys).scopes(["orders:read"]);
    /// let requirements = serde_json::to_value(read.security_requirements()).unwrap();
    /// assert_eq!(
    ///     requirements,
    ///     serde_json::json!([{"bearer": ["orders:read"]}, {"header.x-api-key": ["orders:read"]}])
    /// );
    /// # }
    /// ```
    pub fn security_requirements(&self) -> Vec<SecurityRequirement> {
        let scopes = || self.policy.needs.scopes.iter().map(Scope::as_str);
        let schemes = self.security_schemes().into_iter();
        let mut requirements: Vec<_> = schemes
            .map(|(name, _)| SecurityRequirement::new(name, scopes()))
            .collect();
        if self.policy.optional {
            requirements.push(SecurityRequirement::default());
        }
        requirements
    }

    /// Describes an operation behind this layer: its security requirements, `x-required-scopes`,
    /// the answers of the layer itself and the fields about limits. See [`openapi`](crate::openapi).
    ///
    /// The document gets what that refers to by the layer's own
    /// [`modify`](utoipa::Modify::modify).
    pub fn describe(&self, operation: &mut Operation) {
        operation.security = Some(self.security_requirements());
        let scopes = &self.policy.needs.scopes;
        if !scopes.is_empty() {
            let scopes: Vec<_> = scopes.iter().map(Scope::as_str).collect();
            let extension = ExtensionsBuilder::new()
                .add("x-required-scopes", scopes)
                .build();
            let extensions = operation.extensions.get_or_insert_default();
            extensions.merge(extension);
        }
        let changed_by_hook = self.policy.hook.is_some();
        add_answers(operation, changed_by_hook, self.policy.legacy_headers);
    }

    pub(crate) fn security_schemes(&self) -> Vec<(String, SecurityScheme)> {
        let CredentialSources {
            schemes,
            headers,
            query,
        } = &self.policy.sources;
        let schemes = schemes.iter().map(|scheme| {
            let name = component("", &scheme.to_ascii_lowercase());
            (name, after_scheme(scheme))
        });
        let headers = headers.iter().map(|header| {
            let written = String::from_utf8_lossy(header.written.as_bytes());
            let name = component("header.", &written.to_ascii_lowercase());
            let value = ApiKeyValue::with_description(written.as_ref(), "The API key.");
            (name, SecurityScheme::ApiKey(ApiKey::Header(value)))
        });
        let query = query.iter().map(|parameter| {
            let warning = "The API key. Where a header can be sent, send that: URLs get into logs.";
            let value = ApiKeyValue::with_description(parameter.as_str(), warning);
            let name = component("query.", parameter);
            (name, SecurityScheme::ApiKey(ApiKey::Query(value)))
        });
        schemes.chain(headers).chain(query).collect()
    }
}

/// The key after this scheme in the `Authorization` header.
fn after_scheme(scheme: &str) -> SecurityScheme {
    if scheme.eq_ignore_ascii_case("Bearer") {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let bearer = bearer.bearer_format("API key");
        return SecurityScheme::Http(bearer.description(Some("The API key.")).build());
    }
    // A scheme of the kind `http` has to be a registered one, and no other takes a key.
    let description = format!("`{scheme}`, a space and the API key.");
    let value = ApiKeyValue::with_description("Authorization", description.as_str());
    SecurityScheme::ApiKey(ApiKey::Header(value))
}

/// The name of a component may have letters, digits, `.`, `-` and `_` only.
fn component(kind: &str, name: &str) -> String {
    let mut component = kind.to_owned();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') {
            component.push(char::from(byte));
        } else {
            // Writing into a string cannot fail.
            let _ = write!(component, "_{byte:02x}");
        }
    }
    component
}

//! Bearer tokens, compared in constant time, and which web pages may send requests.

use std::path::PathBuf;
use std::{fmt, fs, io};

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

use crate::config::Config;
use crate::refusal::Refusal;

/// The tokens that open the server; none where it is open to all.
#[derive(Clone, Default)]
pub(crate) struct Tokens(Vec<String>);

/// Why tokens cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum TokenError {
    #[error("{path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} holds no token: one a line, at least {SHORTEST} characters each", path = path.display())]
    Empty { path: PathBuf },
    #[error("the token of PODA_TOKEN is shorter than {SHORTEST} characters")]
    Short,
}

/// Characters of a token at least.
const SHORTEST: usize = 16;

/// Never shown.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

impl Tokens {
    /// From the file and the variable.
    pub(crate) fn of(config: &Config) -> Result<Self, TokenError> {
        let mut tokens: Vec<String> = config.token.iter().cloned().collect();
        if tokens.iter().any(|token| token.len() < SHORTEST) {
            return Err(TokenError::Short);
        }
        if let Some(path) = &config.token_file {
            let text =
                fs::read_to_string(path).map_err(|source| TokenError::Read { path: path.clone(), source })?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            let found: Vec<String> = lines.map(str::to_owned).collect();
            if found.is_empty() || found.iter().any(|token| token.len() < SHORTEST) {
                return Err(TokenError::Empty { path: path.clone() });
            }
            tokens.extend(found);
        }
        Ok(Self(tokens))
    }

    /// Whether anybody may come.
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks a request's headers.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.is_open() {
            return Ok(());
        }
        let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
        let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
        // Every token is compared, so that the time tells nothing of which one is near.
        let right = self.0.iter().fold(0, |right, token| right | token.as_bytes().ct_eq(given).unwrap_u8());
        if right == 1 { Ok(()) } else { Err(Refusal::Unauthorized) }
    }
}

/// Refuses what a browser sends for a page of another site: without it, any page that somebody on this machine looks at could use a
/// server on the loopback.
pub(crate) fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), Refusal> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or("?");
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let own = origin.split_once("://").is_some_and(|(_, rest)| rest == host);
    if own || allowed.iter().any(|allowed| allowed == "*" || allowed == origin) {
        return Ok(());
    }
    Err(Refusal::Origin { origin: origin.chars().take(128).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<HeaderMap>()
    }

    #[test]
    fn only_a_known_token_opens() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "# people\nfirst-token-of-all\n\nsecond-token-of-all\n").unwrap();
        let token = Some("the-variables-token".to_owned());
        let config = Config { token, token_file: Some(file.path().into()), ..Config::default() };
        let tokens = Tokens::of(&config).unwrap();
        for good in ["first-token-of-all", "second-token-of-all", "the-variables-token"] {
            tokens.check(&headers(&[("authorization", &format!("Bearer {good}"))])).unwrap();
        }
        for bad in [
            "Bearer ",
            "Bearer first-token-of-al",
            "first-token-of-all",
            "Basic first-token-of-all",
            "Bearer # people",
        ] {
            assert!(tokens.check(&headers(&[("authorization", bad)])).is_err(), "{bad}");
        }
        assert!(tokens.check(&headers(&[])).is_err());
        assert_eq!(format!("{tokens:?}"), "Tokens(3)");
        fs::write(file.path(), "\n").unwrap();
        assert!(Tokens::of(&config).is_err());
        assert!(Tokens::default().check(&headers(&[])).is_ok());
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let from = |origin: &str| headers(&[("origin", origin), ("host", "127.0.0.1:8080")]);
        assert!(check_origin(&headers(&[]), &[]).is_ok());
        assert!(check_origin(&from("http://127.0.0.1:8080"), &[]).is_ok());
        assert!(check_origin(&from("http://evil.example"), &[]).is_err());
        assert!(check_origin(&from("null"), &[]).is_err());
        assert!(check_origin(&from("http://good.example"), &["http://good.example".into()]).is_ok());
        assert!(check_origin(&from("http://any.example"), &["*".into()]).is_ok());
    }
}

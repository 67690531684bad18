//! Patterns of names: `*` is any text, `?` any one character.

use poda_formats::Graph;

/// Why patterns cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum NamesError {
    #[error("no weight and no node has a name that fits the pattern {pattern:?}{hint}")]
    Unused { pattern: String, hint: String },
}

/// Checks that each pattern fits the name of a weight or a node of some of `graphs`, or of their bodies.
///
/// # Errors
/// The first that fits none: a slip that would leave nothing excluded, in silence.
pub fn all_fit(graphs: &[&Graph], patterns: &[String]) -> Result<(), NamesError> {
    if patterns.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = graphs
        .iter()
        .flat_map(|graph| graph.with_bodies())
        .flat_map(|g| {
            let weights = g.values.iter().filter(|v| v.weight.is_some()).map(|v| v.name.as_str());
            weights.chain(g.nodes.iter().map(|n| n.name.as_str()))
        })
        .collect();
    for pattern in patterns {
        if !names.iter().any(|name| fits(pattern, name)) {
            let lower = pattern.to_lowercase();
            let near = names.iter().find(|name| fits(&lower, &name.to_lowercase()));
            let near =
                near.or_else(|| names.iter().find(|n| !n.is_empty() && n.to_lowercase().contains(&lower)));
            let hint = near.map_or_else(String::new, |name| format!("; there is {name:?}"));
            return Err(NamesError::Unused { pattern: pattern.clone(), hint });
        }
    }
    Ok(())
}

/// Whether `name` fits `pattern`, where `*` is any text and `?` any one character.
pub fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last `*` was, and how far it has eaten.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match &mut star {
                Some((at, eaten)) => {
                    *eaten += 1;
                    (p, n) = (*at + 1, *eaten);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use poda_formats::Tensor;

    #[test]
    fn text_and_characters() {
        for (pattern, name, want) in [
            ("head.*", "head.weight", true),
            ("head.*", "my.head.weight", false),
            ("*conv?.w*", "layer1.conv2.weight", true),
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
            ("a?", "a", false),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_that_fits_nothing_is_a_slip() {
        let mut graph = Graph::default();
        graph.add_weight("head.weight", Tensor::scalar(1.0_f32));
        let fit =
            |pattern: &str| all_fit(&[&graph], &[pattern.to_owned()]).map_err(|error| error.to_string());
        assert_eq!(fit("head.*"), Ok(()));
        let message = "no weight and no node has a name that fits the pattern";
        assert_eq!(fit("Head.*"), Err(format!("{message} \"Head.*\"; there is \"head.weight\"")));
        assert_eq!(fit("weight"), Err(format!("{message} \"weight\"; there is \"head.weight\"")));
        assert_eq!(fit("tail"), Err(format!("{message} \"tail\"")));
    }
}

//! What a crate keeps to itself, opened: the functions with holes are a crate of their own, and may name all that they could name before.
//!
//! It goes by lines, since the course's text is formatted.

/// What a crate keeps to itself, for everybody.
pub fn open(text: &str) -> String {
    text.replace("pub(crate) ", "pub ")
        .replace("pub(super) ", "pub ")
}

/// Makes private items, fields and methods public, up to the tests.
pub fn public_items(text: &str) -> String {
    const ITEMS: [&str; 8] = [
        "fn ", "const ", "struct ", "enum ", "static ", "type ", "trait ", "mod ",
    ];
    #[derive(PartialEq)]
    enum In {
        Nothing,
        Struct,
        Methods,
    }
    let mut inside = In::Nothing;
    let mut is_test = false;
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        is_test |= line.starts_with("#[cfg(test)]");
        let code = line.trim_end();
        let field = code.strip_prefix("    ").filter(|code| {
            let name = code.split(':').next().unwrap_or_default();
            let is_word = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
            code.contains(": ") && !name.is_empty() && name.chars().all(is_word)
        });
        let method = code
            .strip_prefix("    ")
            .filter(|code| code.starts_with("fn ") || code.starts_with("const "));
        let is_item = ITEMS.iter().any(|item| code.starts_with(item));
        let is_struct =
            code.ends_with('{') && (code.starts_with("pub struct ") || code.starts_with("struct "));
        if is_test {
        } else if is_item {
            out.push_str("pub ");
        } else if inside == In::Struct && field.is_some()
            || inside == In::Methods && method.is_some()
        {
            out.push_str("    pub ");
            out.push_str(line.trim_start());
            continue;
        }
        if is_struct {
            inside = In::Struct;
        } else if code.starts_with("impl ") && code.ends_with('{') && !code.contains(" for ") {
            inside = In::Methods;
        } else if code == "}" {
            inside = In::Nothing;
        }
        out.push_str(line);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_the_tests_is_public() {
        let text = "\
const A: usize = 1;

struct Two {
    first: f32,
    pub(crate) second: f32,
}

impl Two {
    fn sum(&self) -> f32 {
        let both: f32 = self.first;
        both
    }
}

impl Shown for Two {
    fn show(&self) {}
}

#[cfg(test)]
mod tests {
    fn check() {}
}
";
        let wanted = text
            .replace("const A", "pub const A")
            .replace("struct Two", "pub struct Two")
            .replace("    first", "    pub first")
            .replace("pub(crate) second", "pub second")
            .replace("    fn sum", "    pub fn sum");
        assert_eq!(public_items(&open(text)), wanted);
    }
}

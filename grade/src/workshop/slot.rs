//! A function with a hole, as its library and its submissions' crates see it: what it is called, what it takes and what it gives.
//!
//! It goes by lines, since the course's text is formatted.

/// One function with a hole.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// `15.3`.
    pub tag: String,
    /// Lines from the function's first to the marker.
    pub before: usize,
    /// Lines from the other marker to the function's last.
    pub after: usize,
    /// `quantize`.
    pub name: String,
    /// From `(` to before `{`.
    pub signature: String,
    /// For a method: its type.
    pub of: Option<String>,
    /// In their order, `self` the first of a method.
    pub arguments: Vec<Argument>,
    /// ` -> Result<()>`, or nothing.
    pub output: String,
}

/// One of its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    /// How the dispatcher passes it on.
    pub passed: String,
    /// Its type in the slot.
    pub kind: String,
}

impl Slot {
    /// The function around the hole whose markers stand on these lines (from 0).
    pub fn new(lines: &[&str], tag: &str, begin: usize, end: usize) -> Option<Slot> {
        let indent_of = |line: &str| line.len() - line.trim_start().len();
        let indent = indent_of(lines.get(begin)?).checked_sub(4)?;
        let is_first = |line: &&str| {
            let code = line.trim_start();
            indent_of(line) == indent && (code.starts_with("fn ") || code.starts_with("pub fn "))
        };
        let first = (0..begin).rev().find(|&line| is_first(&lines[line]))?;
        let last = (end..lines.len())
            .find(|&line| indent_of(lines[line]) == indent && lines[line].trim() == "}")?;
        let open = (first..begin).find(|&line| lines[line].ends_with('{'))?;
        let of = match indent {
            0 => None,
            4 => {
                let head = lines[..first].iter().rev();
                let head = head.filter(|line| indent_of(line) == 0 && !line.is_empty());
                let head = head.map(|line| line.strip_prefix("impl ")).next()??;
                let of = head.strip_suffix(" {")?.rsplit(' ').next()?;
                (!of.contains(['<', '&'])).then(|| Some(of.to_owned()))?
            }
            _ => return None,
        };
        let head: Vec<&str> = lines[first..=open].iter().map(|line| line.trim()).collect();
        let head = head.join(" ");
        let (name, signature) = head.split_once("fn ")?.1.split_once('(')?;
        let signature = format!("({}", signature.strip_suffix('{')?.trim_end());
        let (arguments, output) = arguments(&signature)?;
        if name.contains('<') || signature.contains("Self") || signature.contains(" where ") {
            return None;
        }
        let arguments = arguments
            .into_iter()
            .map(|argument| Argument::new(argument, of.as_deref()))
            .collect::<Option<Vec<Argument>>>()?;
        Some(Slot {
            tag: tag.to_owned(),
            before: begin - first,
            after: last - end,
            name: name.to_owned(),
            output: output.to_owned(),
            arguments,
            signature,
            of,
        })
    }

    /// Its slot in the library: `HOLE_15_6A`.
    pub fn own(&self) -> String {
        let tag = self.tag.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        format!("HOLE_{}", tag.to_uppercase())
    }
}

/// The arguments between the outer brackets, and what follows these.
fn arguments(signature: &str) -> Option<(Vec<&str>, &str)> {
    let mut depth = 0_usize;
    let mut begin = 1;
    let mut found = Vec::new();
    for (place, c) in signature.char_indices() {
        match c {
            '(' | '[' | '<' | '{' => depth += 1,
            // An arrow is no bracket.
            '>' if signature[..place].ends_with('-') => {}
            ')' | ']' | '>' | '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 1 && c == ',' || depth == 0 {
            let argument = signature[begin..place].trim();
            if !argument.is_empty() {
                found.push(argument);
            }
            begin = place + 1;
        }
        if depth == 0 {
            return Some((found, &signature[begin..]));
        }
    }
    None
}

impl Argument {
    fn new(text: &str, of: Option<&str>) -> Option<Argument> {
        if let Some(own) = text.strip_suffix("self") {
            let kind = format!("{own}{}", of?);
            return Some(Argument {
                passed: "self".into(),
                kind,
            });
        }
        let (name, kind) = text.split_once(": ")?;
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        name.chars().all(is_word).then_some(())?;
        let item = kind
            .strip_prefix("impl IntoIterator<")
            .and_then(|kind| kind.strip_suffix('>'));
        match item {
            Some(item) => Some(Argument {
                passed: format!("&mut {name}.into_iter()"),
                kind: format!("&mut dyn Iterator<{item}>"),
            }),
            None => (!kind.contains("impl ")).then(|| Argument {
                passed: name.to_owned(),
                kind: kind.to_owned(),
            }),
        }
    }
}

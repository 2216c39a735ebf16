//! The given files of a student's crate without what is already compiled: the bodies of their functions.
//!
//! A submission differs from the course in a few dozen function bodies, but the crate around them has twenty thousand lines. Those are compiled once;
//! a submission is compiled against *headers*, in which every given function whose machine code does not depend on its caller only says
//! that it exists. `relink` puts the compiled one in its place.
//!
//! What must keep its body: generic functions and methods (they are compiled where they are used), default methods of traits, `const fn`,
//! `#[inline]`, functions that return `impl Trait`; and, since a compiler may make a function private to the object that alone calls it, everything that
//! these bodies might call, by name.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, Block, Generics, ReturnType, Signature, Type};

use crate::course::Texts;

/// What a function says that has no body here. The linker never lets it be called; if it is, the submission is compiled as a whole.
pub const ONLY_DECLARED: &str = "tito-grade: this function was only declared";

/// Appended to the crate root.
fn stand_in() -> String {
    format!(
        "\n#[doc(hidden)]\n#[cold]\npub fn only_declared() -> ! {{\n    panic!({ONLY_DECLARED:?})\n}}\n"
    )
}

/// The headers of the given files; `root` is the path of the crate root.
///
/// # Errors
///
/// If a file is no Rust that `syn` knows.
pub fn headers(given: &Texts, root: &str) -> Result<Texts> {
    let mut files = BTreeMap::new();
    let mut headers = Texts::new();
    for (path, text) in given {
        if !path.ends_with(".rs") {
            headers.insert(path.clone(), text.clone());
            continue;
        }
        let text = std::str::from_utf8(text).with_context(|| format!("{path} is no text"))?;
        let parsed = syn::parse_file(text).with_context(|| format!("{path} cannot be parsed"))?;
        files.insert(path.clone(), parsed);
    }
    let mut calls = Calls::default();
    for file in files.values() {
        calls.visit_file(file);
    }
    let kept = calls.kept();
    for (path, mut file) in files {
        Strip { kept: &kept }.visit_file_mut(&mut file);
        let mut text = file.into_token_stream().to_string();
        if path == root {
            text.push_str(&stand_in());
        }
        headers.insert(path, text.into_bytes());
    }
    Ok(headers)
}

/// True if no function with a hole is compiled where it is used: its machine code can be exchanged.
///
/// # Errors
///
/// If a file is no Rust that `syn` knows.
pub fn can_be_exchanged(exercise: &str) -> Result<bool> {
    let file = syn::parse_file(exercise)?;
    let mut holes = Holes { found: false };
    holes.visit_file(&file);
    Ok(!holes.found)
}

/// Whether the machine code of a function depends on who calls it.
fn depends_on_caller(attributes: &[Attribute], signature: &Signature) -> bool {
    let is_inline = attributes.iter().any(|one| one.path().is_ident("inline"));
    is_inline
        || signature.constness.is_some()
        || signature.asyncness.is_some()
        || is_generic(&signature.generics)
        || has_impl_trait(signature)
}

fn is_generic(generics: &Generics) -> bool {
    generics.type_params().next().is_some() || generics.const_params().next().is_some()
}

fn has_impl_trait(signature: &Signature) -> bool {
    #[derive(Default)]
    struct Found(bool);
    impl Visit<'_> for Found {
        fn visit_type(&mut self, node: &Type) {
            self.0 |= matches!(node, Type::ImplTrait(_));
            visit::visit_type(self, node);
        }
    }
    let mut found = Found::default();
    for input in &signature.inputs {
        found.visit_fn_arg(input);
    }
    if let ReturnType::Type(_, output) = &signature.output {
        found.visit_type(output);
    }
    found.0
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|one| {
        one.path().is_ident("cfg")
            && one
                .parse_args::<syn::Path>()
                .is_ok_and(|word| word.is_ident("test"))
    })
}

/// Which functions there are, which of them keep their bodies, and which words are in a body.
#[derive(Default)]
struct Calls {
    /// Name to the words in the bodies of all functions of that name.
    words: BTreeMap<String, BTreeSet<String>>,
    must_keep: BTreeSet<String>,
    in_generic: bool,
}

impl Calls {
    fn function(&mut self, attributes: &[Attribute], signature: &Signature, body: &Block) {
        let name = signature.ident.to_string();
        if self.in_generic || depends_on_caller(attributes, signature) {
            self.must_keep.insert(name.clone());
        }
        let words = self.words.entry(name).or_default();
        collect(body.to_token_stream(), words);
    }

    /// Names of functions that keep their bodies.
    fn kept(self) -> BTreeSet<String> {
        let mut kept = BTreeSet::new();
        let mut open: Vec<String> = self.must_keep.into_iter().collect();
        while let Some(name) = open.pop() {
            if let Some(words) = self.words.get(&name)
                && kept.insert(name)
            {
                let called = words.iter().filter(|word| self.words.contains_key(*word));
                open.extend(called.cloned());
            }
        }
        kept
    }
}

fn collect(tokens: proc_macro2::TokenStream, words: &mut BTreeSet<String>) {
    for token in tokens {
        match token {
            proc_macro2::TokenTree::Ident(word) => {
                words.insert(word.to_string());
            }
            proc_macro2::TokenTree::Group(group) => collect(group.stream(), words),
            _ => {}
        }
    }
}

impl Visit<'_> for Calls {
    fn visit_item_mod(&mut self, node: &syn::ItemMod) {
        if !is_for_tests(&node.attrs) {
            visit::visit_item_mod(self, node);
        }
    }

    fn visit_item_fn(&mut self, node: &syn::ItemFn) {
        self.function(&node.attrs, &node.sig, &node.block);
    }

    fn visit_item_impl(&mut self, node: &syn::ItemImpl) {
        self.in_generic = is_generic(&node.generics);
        visit::visit_item_impl(self, node);
        self.in_generic = false;
    }

    fn visit_impl_item_fn(&mut self, node: &syn::ImplItemFn) {
        self.function(&node.attrs, &node.sig, &node.block);
    }

    fn visit_trait_item_fn(&mut self, node: &syn::TraitItemFn) {
        if let Some(body) = &node.default {
            self.must_keep.insert(node.sig.ident.to_string());
            self.function(&node.attrs, &node.sig, body);
        }
    }
}

/// Takes away bodies, tests and documentation.
struct Strip<'a> {
    kept: &'a BTreeSet<String>,
}

impl Strip<'_> {
    fn body(&self, signature: &Signature, body: &mut Block) {
        if !self.kept.contains(&signature.ident.to_string()) {
            *body = syn::parse_quote!({ crate::only_declared() });
        }
    }
}

impl VisitMut for Strip<'_> {
    fn visit_file_mut(&mut self, node: &mut syn::File) {
        node.items.retain(|item| match item {
            syn::Item::Mod(module) => !is_for_tests(&module.attrs),
            syn::Item::Use(import) => !is_for_tests(&import.attrs),
            syn::Item::Fn(function) => !is_for_tests(&function.attrs),
            syn::Item::Impl(block) => !is_for_tests(&block.attrs),
            _ => true,
        });
        visit_mut::visit_file_mut(self, node);
    }

    fn visit_attributes_mut(&mut self, attributes: &mut Vec<Attribute>) {
        attributes.retain(|one| !one.path().is_ident("doc"));
    }

    fn visit_item_fn_mut(&mut self, node: &mut syn::ItemFn) {
        self.body(&node.sig, &mut node.block);
        self.visit_attributes_mut(&mut node.attrs);
    }

    fn visit_impl_item_fn_mut(&mut self, node: &mut syn::ImplItemFn) {
        self.body(&node.sig, &mut node.block);
        self.visit_attributes_mut(&mut node.attrs);
    }
}

/// Looks for functions with a hole that are compiled where they are used.
struct Holes {
    found: bool,
}

impl Holes {
    fn function(&mut self, attributes: &[Attribute], signature: &Signature, body: &Block) {
        let mut words = BTreeSet::new();
        collect(body.to_token_stream(), &mut words);
        self.found |= words.contains("todo") && depends_on_caller(attributes, signature);
    }
}

impl Visit<'_> for Holes {
    fn visit_item_fn(&mut self, node: &syn::ItemFn) {
        self.function(&node.attrs, &node.sig, &node.block);
    }

    fn visit_item_impl(&mut self, node: &syn::ItemImpl) {
        let mut words = BTreeSet::new();
        collect(node.to_token_stream(), &mut words);
        self.found |= words.contains("todo") && is_generic(&node.generics);
        visit::visit_item_impl(self, node);
    }

    fn visit_impl_item_fn(&mut self, node: &syn::ImplItemFn) {
        self.function(&node.attrs, &node.sig, &node.block);
    }

    fn visit_trait_item_fn(&mut self, node: &syn::TraitItemFn) {
        let mut words = BTreeSet::new();
        collect(node.to_token_stream(), &mut words);
        self.found |= words.contains("todo");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "
        //! Text.
        pub struct S(pub u8);
        impl S { pub fn plain(&self) -> u8 { helper_of_plain(self.0) } }
        pub fn helper_of_plain(x: u8) -> u8 { x + 1 }
        pub fn generic<T: Into<u8>>(x: T) -> u8 { called_by_generic(x.into()) }
        fn called_by_generic(x: u8) -> u8 { x + 2 }
        pub const fn constant() -> u8 { 3 }
        pub fn some() -> impl Iterator<Item = u8> { std::iter::once(4) }
        pub fn takes(_: impl Fn()) -> u8 { 5 }
        #[cfg(test)] mod tests { fn test() {} }
    ";

    fn header() -> String {
        let given = Texts::from([("lib.rs".to_owned(), GIVEN.as_bytes().to_vec())]);
        let headers = headers(&given, "lib.rs").expect("parses");
        String::from_utf8(headers["lib.rs"].clone()).expect("text")
    }

    #[test]
    fn only_what_is_compiled_where_it_is_used_keeps_its_body() {
        let header = header();
        for gone in ["helper_of_plain (self", "x + 1", "mod tests", "Text."] {
            assert!(!header.contains(gone), "{gone}: {header}");
        }
        for kept in [
            "x + 2",
            "{ 3 }",
            "once (4)",
            "{ 5 }",
            "called_by_generic (x",
        ] {
            assert!(header.contains(kept), "{kept}: {header}");
        }
        assert_eq!(header.matches("only_declared ()").count(), 2);
    }

    #[test]
    fn a_generic_function_with_a_hole_cannot_be_exchanged() {
        let plain = "pub fn a(x: &[f32]) -> u8 { todo!(\"exercise 1.1\") }";
        assert!(can_be_exchanged(plain).expect("parses"));
        for generic in [
            "pub fn a<T>(x: T) -> u8 { todo!(\"exercise 1.1\") }",
            "pub fn a(x: impl Fn()) -> u8 { todo!(\"exercise 1.1\") }",
            "#[inline] pub fn a() -> u8 { todo!(\"exercise 1.1\") }",
            "impl<T> S<T> { fn a(&self) -> u8 { todo!(\"exercise 1.1\") } }",
            "trait A { fn a(&self) -> u8 { todo!(\"exercise 1.1\") } }",
        ] {
            assert!(!can_be_exchanged(generic).expect("parses"), "{generic}");
        }
    }
}

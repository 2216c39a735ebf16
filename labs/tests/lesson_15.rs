//! Every table marked *computed* in the lesson of module 15 is computed here, and compared with the page.
//!
//! After a change of the numbers or of the page: `UPDATE_LESSON=1 cargo test -p tinytorch-labs --test lesson_15`
//! writes the tables anew.

mod lesson;

use lesson::{calibration, formats, products, scalars};
use std::path::Path;

/// Computes a table.
type Table = fn() -> String;

/// The name of each table in the page, and what computes it.
const TABLES: [(&str, Table); 10] = [
    ("asymmetric", scalars::asymmetric),
    ("bits", scalars::bits),
    ("channels", scalars::channels),
    ("outlier", calibration::outlier),
    ("product", products::product),
    ("requantize", products::requantize),
    ("memory", products::memory),
    ("straight_through", formats::straight_through),
    ("halves", formats::halves),
    ("loss_scaling", formats::loss_scaling),
];

/// Replaces what stands between the markers of table `name` by `table`.
fn with_table(page: &str, name: &str, table: &str) -> String {
    let open = format!("<!-- computed: {name} -->\n");
    let close = "<!-- end computed -->";
    let start = page.find(&open).map(|at| at + open.len());
    let start = start.unwrap_or_else(|| panic!("the lesson has no table `{name}`"));
    let length = page[start..].find(close);
    let length = length.unwrap_or_else(|| panic!("table `{name}` of the lesson does not end"));
    let rest = &page[start + length..];
    format!("{}```text\n{table}```\n{rest}", &page[..start])
}

#[test]
fn every_computed_table_of_the_lesson_is_what_the_code_computes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../modules/15_quantization/ABOUT.md");
    let page = std::fs::read_to_string(&path).expect("the lesson is part of the workspace");
    let tables = page.matches("<!-- computed:").count();
    assert_eq!(
        tables,
        TABLES.len(),
        "a table of the page is not computed here"
    );
    let computed = TABLES.iter().fold(page.clone(), |page, (name, table)| {
        with_table(&page, name, &table())
    });
    if std::env::var_os("UPDATE_LESSON").is_some() {
        std::fs::write(&path, computed).expect("the lesson can be written");
    } else {
        assert_eq!(
            page, computed,
            "run with UPDATE_LESSON=1 to write the tables anew"
        );
    }
}

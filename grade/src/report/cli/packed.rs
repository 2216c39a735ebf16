//! `tito grade gradescope-zip`: the autograder as one file.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use tito::failure::Outcome;
use tito::ui;
use tito::workspace::Workspace;

use super::{Written, tell, write};
use crate::model::Isolation;
use crate::report::autograder;
use crate::report::gradescope::Hidden;

/// How the autograder shall be.
#[derive(Args, Debug)]
pub struct ZipWishes {
    /// Number, name or both: 15, quantization, 15_quantization.
    #[arg(long)]
    pub module: String,
    /// The zip file.
    #[arg(long, value_name = "FILE", default_value = "autograder.zip")]
    pub out: PathBuf,
    /// When students may see how hidden checks ended.
    #[arg(long, value_enum, default_value = "hidden")]
    pub hidden_checks: Hidden,
    /// Your own hidden checks: a folder shaped like the exam's `hidden`.
    #[arg(long, value_name = "DIR")]
    pub hidden: Option<PathBuf>,
    /// Let the autograder refuse to grade where a wall is missing.
    #[arg(long)]
    pub require_full_isolation: bool,
}

/// Packs the autograder that Gradescope wants to be uploaded.
///
/// # Errors
///
/// Those of reading the course and of writing the file.
pub fn gradescope_zip(workspace: Option<&Path>, wishes: &ZipWishes, json: bool) -> Result<Outcome> {
    let workspace = Workspace::find(workspace)?;
    let own = wishes
        .hidden
        .as_ref()
        .map(std::path::absolute)
        .transpose()?;
    let settings = autograder::Settings {
        isolation: if wishes.require_full_isolation {
            Isolation::Full
        } else {
            Isolation::Reduced
        },
        hidden: wishes.hidden_checks,
        own_checks: own.as_deref(),
    };
    let bytes = autograder::zip(&workspace, &wishes.module, settings)?;
    let written = Written::from([(PathBuf::new(), bytes)]);
    write(&wishes.out, &written)?;
    tell(&wishes.out, 1, json);
    if !json {
        ui::note("it holds the reference and the hidden checks: for Gradescope's upload form only");
    }
    Ok(Outcome::Good)
}

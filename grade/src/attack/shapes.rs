//! Submissions whose shape is the attack.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::graft::Stubs;

/// Writes the folder, or the archive of that name.
///
/// # Errors
///
/// Those of the file system; that the shape is not known.
pub(super) fn write(shape: &str, folder: &Path, stubs: &Stubs) -> io::Result<()> {
    let Some((first, text)) = stubs.first_key_value() else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let archive = folder.with_extension("zip");
    match shape {
        "links" => {
            fs::create_dir_all(folder)?;
            std::os::unix::fs::symlink("/etc/passwd", folder.join(first))?;
            std::os::unix::fs::symlink("/etc", folder.join("modules"))
        }
        "twins" => {
            fs::create_dir_all(folder)?;
            fs::write(folder.join(first), text)?;
            fs::write(folder.join(first.to_uppercase()), text)
        }
        "pipe" => {
            fs::create_dir_all(folder)?;
            let made = rustix::fs::mknodat(
                rustix::fs::CWD,
                folder.join(first),
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RWXU,
                0,
            );
            Ok(made?)
        }
        "bytes" => {
            fs::create_dir_all(folder)?;
            fs::write(folder.join(first), b"fn main() {}\n\xff\xfe\x00")
        }
        "broken" => fs::write(archive, b"PK\x03\x04 and nothing of the kind"),
        "climbing" => {
            let mut zip = ZipWriter::new(File::create(archive)?);
            let options = SimpleFileOptions::default();
            for name in [
                format!("../../{first}"),
                format!("/tmp/tito-attack-{first}"),
            ] {
                zip.start_file(name, options)?;
                zip.write_all(text.as_bytes())?;
            }
            zip.add_symlink(format!("15_quantization/{first}"), "/etc/passwd", options)?;
            zip.finish()?;
            Ok(())
        }
        "bomb" => {
            let mut zip = ZipWriter::new(File::create(archive)?);
            zip.start_file(
                first.as_str(),
                SimpleFileOptions::default().large_file(true),
            )?;
            let block = vec![b' '; 1 << 20];
            for _ in 0..64 {
                zip.write_all(&block)?;
            }
            zip.finish()?;
            Ok(())
        }
        _ => Err(io::Error::other(format!("there is no shape `{shape}`"))),
    }
}

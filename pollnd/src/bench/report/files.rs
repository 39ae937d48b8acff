//! The files of a report: written whole, or not at all.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::ReportArgs;

/// The files.
pub(super) struct Places {
    /// The page.
    pub(super) html: Option<PathBuf>,
    /// The figures.
    pub(super) json: Option<PathBuf>,
    folder: Option<PathBuf>,
    force: bool,
}

/// The name under which a file is written until it is whole.
fn draft(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

/// Makes a draft anew: what lies there, perhaps somebody's link to elsewhere, is not written to.
fn create(path: &Path) -> std::io::Result<File> {
    let draft = draft(path);
    match fs::remove_file(&draft) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => File::create_new(draft),
    }
}

impl Places {
    /// Those that were asked for.
    ///
    /// # Errors
    /// None was, there is one already, or its folder takes no file.
    pub(super) fn of(a: &ReportArgs) -> Result<Places, String> {
        let folder = a.output.clone();
        let p = match &folder {
            Some(dir) => {
                let [html, json] = ["report.html", "report.json"].map(|name| Some(dir.join(name)));
                Places { html, json, folder, force: a.force }
            }
            None => Places { html: a.html.clone(), json: a.json.clone(), folder, force: a.force },
        };
        if p.all().next().is_none() && (a.from.is_none() || a.against.is_none()) {
            return Err("nowhere to write to: give --output DIR, or --html FILE, --json FILE or both".into());
        }
        if p.html.is_some() && p.html == p.json {
            return Err("--html and --json name the same file: give each its own".into());
        }
        p.fits()?;
        Ok(p)
    }

    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.html.iter().chain(&self.json)
    }

    /// Whether all could be written.
    fn fits(&self) -> Result<(), String> {
        for path in self.all() {
            self.is_free(path)?;
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if self.folder.is_some() && !folder.exists() {
                let above = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                if !above.is_dir() {
                    return Err(format!("--output {}: {} is no folder", folder.display(), above.display()));
                }
                continue;
            }
            // A few minutes from now would be too late to say so.
            create(path).map_err(|e| format!("{}: {e}", path.display()))?;
            let _ = fs::remove_file(draft(path));
        }
        Ok(())
    }

    fn is_free(&self, path: &Path) -> Result<(), String> {
        match fs::symlink_metadata(path) {
            Ok(m) if m.is_dir() => Err(format!("{}: it is a folder; name a file", path.display())),
            Ok(_) if !self.force => {
                Err(format!("{}: it is there already; name another, or give --force", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Writes both, or neither.
    ///
    /// # Errors
    /// The file, and the kernel's reason.
    pub(super) fn write(&self, html: Option<&str>, json: Option<&str>) -> Result<Vec<PathBuf>, String> {
        if let Some(dir) = &self.folder {
            fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        let all: Vec<(&PathBuf, &str)> =
            self.html.iter().zip(html).chain(self.json.iter().zip(json)).collect();
        let put = |(path, text): &(&PathBuf, &str)| {
            // Somebody may have written it meanwhile.
            self.is_free(path)?;
            let mut f = create(path).map_err(|e| format!("{}: {e}", path.display()))?;
            f.write_all(text.as_bytes())
                .and_then(|()| f.sync_all())
                .map_err(|e| format!("{}: {e}", path.display()))
        };
        let done = all.iter().try_for_each(put).and_then(|()| {
            all.iter().try_for_each(|(path, _)| {
                fs::rename(draft(path), path).map_err(|e| format!("{}: {e}", path.display()))
            })
        });
        if let Err(e) = done {
            all.iter().for_each(|(path, _)| drop(fs::remove_file(draft(path))));
            return Err(e);
        }
        Ok(all.into_iter().map(|(path, _)| path.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path, force: bool) -> Places {
        Places { html: Some(dir.join("a.html")), json: Some(dir.join("a.json")), folder: None, force }
    }

    fn names(dir: &Path) -> Vec<String> {
        let all = fs::read_dir(dir).unwrap().flatten();
        let mut all: Vec<_> = all.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        all.sort();
        all
    }

    #[test]
    fn both_are_written_or_neither() {
        let dir = tempfile::tempdir().unwrap();
        let p = places(dir.path(), false);
        p.fits().unwrap();
        assert!(names(dir.path()).is_empty(), "looking leaves nothing");
        // A draft's name can be guessed, in a folder that others write to.
        let victim = dir.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        let link = || std::os::unix::fs::symlink(&victim, draft(&dir.path().join("a.json"))).unwrap();
        link();
        p.fits().unwrap();
        link();
        p.write(Some("page"), Some("figures")).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        fs::remove_file(victim).unwrap();
        assert_eq!(names(dir.path()), ["a.html", "a.json"]);
        let e = p.fits().unwrap_err();
        assert!(e.contains("a.html: it is there already; name another, or give --force"), "{e}");
        fs::remove_file(dir.path().join("a.html")).unwrap();
        let e = p.write(Some("new"), Some("new")).unwrap_err();
        assert!(e.contains("a.json: it is there already"), "{e}");
        assert_eq!(names(dir.path()), ["a.json"], "the page is not left alone");
        places(dir.path(), true).write(Some("new"), Some("new")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a.json")).unwrap(), "new");
        // A folder in the place of a file, even with --force.
        fs::remove_file(dir.path().join("a.json")).unwrap();
        fs::create_dir(dir.path().join("a.json")).unwrap();
        assert!(places(dir.path(), true).fits().unwrap_err().contains("it is a folder"));
    }
}

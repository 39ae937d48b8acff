//! A page in a headless browser: a copy of it has a script that looks at what was laid out and writes it down.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Names of the browser.
const BROWSERS: [&str; 2] = ["chromium-headless-shell", "chromium"];

/// The browser, if the machine has one; else the test says that it is skipped.
pub(crate) fn browser(test: &str) -> Option<&'static str> {
    let runs = |b: &&str| {
        let mut c = Command::new(b);
        c.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    let found = BROWSERS.into_iter().find(runs);
    if found.is_none() {
        println!("SKIP: {test}: no {}: scripts/deps test", BROWSERS[0]);
    }
    found
}

/// For every plot: that it has a size, that its dots, as many as the page says, its lines and its words are within it, that no two
/// words of an axis overlap, and that dots differ in place; for the page, that nothing is wider than the window.
const LOOK: &str = r#"<script>
addEventListener('load', () => {
  const bad = [], box = e => e.getBoundingClientRect();
  const within = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
  const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
  let plots = 0, dots = 0;
  for (const f of document.querySelectorAll('figure.plot')) {
    plots++;
    const name = f.querySelector('figcaption').textContent, svg = f.querySelector('svg'), all = box(svg);
    if (all.width < 200 || all.height < 100) bad.push(name + ': no size');
    const seen = [...svg.querySelectorAll('circle')].filter(c => getComputedStyle(c).fill !== 'none').map(box);
    dots += seen.length;
    if (seen.length !== +f.dataset.points || seen.length === 0) bad.push(name + ': ' + seen.length + ' dots of ' + f.dataset.points);
    if (!seen.every(b => b.width > 2 && within(b, all))) bad.push(name + ': a dot outside');
    const places = new Set(seen.map(b => Math.round(b.left) + ' ' + Math.round(b.top)));
    if (seen.length > 1 && places.size < 2) bad.push(name + ': all dots in one place');
    const lines = [...svg.querySelectorAll('polyline')].map(box);
    if (lines.filter(b => b.width > 50).length < 2) bad.push(name + ': no lines');
    if (!lines.every(b => within(b, all))) bad.push(name + ': a line outside');
    const words = [...svg.querySelectorAll('text')];
    const laid = words.map(box);
    if (words.length < 4) bad.push(name + ': no axes');
    laid.forEach((b, i) => {
      if (b.width === 0 || !within(b, all)) bad.push(name + ': "' + words[i].textContent.trim() + '" outside');
      for (let k = 0; k < i; k++) {
        if (!apart(b, laid[k])) bad.push(name + ': "' + words[i].textContent.trim() + '" on "' + words[k].textContent.trim() + '"');
      }
    });
    if (f.querySelectorAll('tbody tr').length === 0) bad.push(name + ': no table');
  }
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) bad.push('the page is ' + wide + ' wide in a window of ' + innerWidth);
  const out = document.createElement('pre');
  out.id = 'looked';
  out.textContent = JSON.stringify({ plots, dots, bad });
  document.body.append(out);
});
</script>"#;

/// Lays a page out in a window of so many pixels; what is to be seen. The console has no word to say.
pub(crate) fn look(browser: &str, page: &Path, width: u32) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.html");
    let text = std::fs::read_to_string(page).unwrap();
    assert_eq!(text.matches("</body>").count(), 1);
    std::fs::write(&copy, text.replace("</body>", &format!("{LOOK}</body>"))).unwrap();
    let mut c = Command::new(browser);
    c.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--dump-dom", &format!("--window-size={width},900")])
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg(format!("file://{}", copy.display()));
    let out = c.stdin(Stdio::null()).output().unwrap();
    let [dom, said] = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert!(out.status.success() && !said.contains("CONSOLE"), "{said}");
    let json = dom.split_once("<pre id=\"looked\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let json = json.unwrap_or_else(|| panic!("nothing was looked at: {said}\n{dom}")).0;
    serde_json::from_str(&json.replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")).unwrap()
}

//! Renders the mistakes of a manifest: the line of each, the reason below it, and the remedy.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::manifest::ManifestMistakes;
use crate::printable::{printable, printable_lines};

/// Renders each mistake at its line, and the number of mistakes at the end.
#[must_use]
pub fn draw(mistakes: &ManifestMistakes, color: bool) -> String {
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut out = String::new();
    for excerpt in mistakes.excerpts() {
        let snippet = Snippet::source(excerpt.line)
            .line_start(excerpt.mistake.line)
            .path(mistakes.file_name())
            .annotation(AnnotationKind::Primary.span(excerpt.underline));
        let message = printable(&excerpt.mistake.message);
        let group = Level::ERROR
            .primary_title(&*message)
            .element(snippet)
            .element(Level::HELP.message(printable(&excerpt.mistake.remedy)));
        // The renderer replaces some control characters, but not all. Its own escape sequences must
        // stay.
        let shown = renderer.render(&[group]);
        let harmless: Vec<_> = shown.split('\u{1b}').map(printable_lines).collect();
        out.push_str(&harmless.join("\u{1b}"));
        out.push_str("\n\n");
    }
    out + &mistakes.count()
}

//! A chart as SVG. Colours and type come from the style sheet around it, so that one drawing serves light and
//! dark pages.

use std::fmt::Write;

use super::axis::Axis;
use super::html::escape;
use super::series::Point;

/// A chart to draw.
pub struct Chart {
    /// What is shown, for those who do not see it.
    pub title: String,
    /// Tells its parts from those of other charts on the page.
    pub id: String,
    /// Width and height of the drawing.
    pub size: (f64, f64),
    /// Steps.
    pub x: Axis,
    /// What is drawn over them.
    pub y: Axis,
    /// Lines, the first at the bottom.
    pub lines: Vec<Line>,
    /// Marked points.
    pub marks: Vec<Mark>,
}

/// A line through points.
pub struct Line {
    /// Of the style sheet.
    pub class: String,
    /// In order of x; NaN makes a gap.
    pub points: Vec<Point>,
}

/// A dot.
pub struct Mark {
    /// Of the style sheet.
    pub class: String,
    /// Where.
    pub at: Point,
    /// What a pointer on it shows.
    pub title: String,
    /// What is written beside it.
    pub label: Option<String>,
}

/// Where the plane of a chart lies in its drawing.
struct Plane {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Chart {
    /// The chart as an `svg` element.
    pub fn svg(&self) -> String {
        let (width, height) = self.size;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
             aria-label=\"{}\">\n",
            escape(&self.title)
        );
        self.draw(&mut out, 0.0);
        out.push_str("</svg>\n");
        out
    }

    /// The chart's parts, below `top`.
    pub fn draw(&self, out: &mut String, top: f64) {
        let (width, height) = self.size;
        let y_ticks = self.y.ticks(((height - top) / 60.0) as usize);
        let widest = y_ticks.iter().map(|(_, label)| label.chars().count()).max().unwrap_or(1);
        let left = 14.0 + 6.9 * widest as f64;
        let plane = Plane { left, top: top + 10.0, width: width - left - 16.0, height: height - top - 42.0 };
        self.grid(out, &plane, &y_ticks);
        let id = escape(&self.id);
        let Plane { left, top, width, height } = plane;
        let _ = writeln!(
            out,
            "<clipPath id=\"{id}\"><rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/></clipPath>",
            top - 2.0,
            height + 4.0
        );
        let _ = writeln!(out, "<g clip-path=\"url(#{id})\">");
        for line in &self.lines {
            let path = self.path(&plane, &line.points);
            if !path.is_empty() {
                let _ = writeln!(out, "<path class=\"{}\" d=\"{path}\"/>", line.class);
            }
        }
        out.push_str("</g>\n");
        self.dots(out, &plane);
        for mark in &self.marks {
            self.mark(out, &plane, mark);
        }
    }

    fn grid(&self, out: &mut String, plane: &Plane, y_ticks: &[(f64, String)]) {
        let (right, bottom) = (plane.left + plane.width, plane.top + plane.height);
        for (value, label) in y_ticks {
            let y = bottom - plane.height * self.y.part(*value);
            let _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{:.1} {y:.1}H{right:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{label}</text>",
                plane.left,
                plane.left - 8.0,
                y + 4.0
            );
        }
        let _ = writeln!(out, "<path class=\"base\" d=\"M{:.1} {bottom:.1}H{right:.1}\"/>", plane.left);
        for (value, label) in self.x.ticks((plane.width / 80.0).min(7.0) as usize) {
            // Steps are counted.
            if value.fract() != 0.0 {
                continue;
            }
            let label = label.split_once('.').map_or(label.as_str(), |(whole, _)| whole);
            let x = plane.left + plane.width * self.x.part(value);
            let (anchor, x_text) = if right - x < 12.0 { ("end", right + 12.0) } else { ("middle", x) };
            let _ = writeln!(
                out,
                "<path class=\"base\" d=\"M{x:.1} {bottom:.1}v5\"/><text class=\"tick\" x=\"{x_text:.1}\" y=\"{:.1}\" \
                 text-anchor=\"{anchor}\">{label}</text>",
                bottom + 21.0
            );
        }
    }

    fn place(&self, plane: &Plane, (x, y): Point) -> Option<Point> {
        let at = (
            plane.left + plane.width * self.x.part(x),
            // Far outside is as good as just outside, and keeps the numbers short.
            plane.top + plane.height * (1.0 - self.y.part(y).clamp(-9.0, 9.0)),
        );
        (at.0.is_finite() && at.1.is_finite()).then_some(at)
    }

    fn path(&self, plane: &Plane, points: &[Point]) -> String {
        let mut path = String::new();
        let mut pen = 'M';
        for point in points {
            match self.place(plane, *point) {
                Some((x, y)) => {
                    let _ = write!(path, "{pen}{x:.1} {y:.1}");
                    pen = 'L';
                }
                None => pen = 'M',
            }
        }
        path
    }

    /// A line through a single point, that of a run's first step, would not be seen.
    fn dots(&self, out: &mut String, plane: &Plane) {
        for line in self.lines.iter().filter(|line| !line.class.starts_with("held")) {
            let mut places = line.points.iter().filter_map(|&point| self.place(plane, point));
            let (Some((x, y)), None) = (places.next(), places.next()) else { continue };
            let colour = line.class.split(' ').next_back().unwrap_or_default();
            let _ = writeln!(out, "<circle class=\"{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.6\"/>");
        }
    }

    fn mark(&self, out: &mut String, plane: &Plane, mark: &Mark) {
        let Some((x, y)) = self.place(plane, mark.at) else { return };
        if y < plane.top - 2.0 || y > plane.top + plane.height + 2.0 {
            return;
        }
        let _ = writeln!(
            out,
            "<circle class=\"{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.6\"><title>{}</title></circle>",
            mark.class,
            escape(&mark.title)
        );
        if let Some(label) = &mark.label {
            let near_end = plane.left + plane.width - x < 40.0;
            let (anchor, x) = if near_end { ("end", x + 8.0) } else { ("middle", x) };
            let up = if y - plane.top < 24.0 { 20.0 } else { -11.0 };
            let _ = writeln!(
                out,
                "<text class=\"label\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                y + up,
                escape(label)
            );
        }
    }
}

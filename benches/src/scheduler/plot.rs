//! Lines on axes, as SVG.

use plotters::prelude::*;

const SIZE: (u32, u32) = (720, 440);
/// Of the lines, in their order.
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(44, 160, 44), RGBColor(148, 103, 189)];

/// What is drawn.
pub(super) struct Chart {
    pub title: &'static str,
    pub x: &'static str,
    pub y: &'static str,
    pub lines: Vec<Line>,
}

/// Points that belong together, in order of x.
pub(super) struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// The chart; axes begin at 0. A chart that cannot be drawn is an empty one: the figures are in the table.
pub(super) fn render(chart: &Chart) -> String {
    let mut svg = String::new();
    if draw(chart, &mut svg).is_err() {
        svg.clear();
    }
    svg
}

fn draw(chart: &Chart, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let points = || chart.lines.iter().flat_map(|line| line.points.iter().copied());
    let largest = |of: fn((f64, f64)) -> f64| 1.05 * points().map(of).fold(f64::MIN_POSITIVE, f64::max);
    let (x_max, y_max) = (largest(|point| point.0), largest(|point| point.1));
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut axes = ChartBuilder::on(&area)
        .caption(chart.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..x_max, 0.0..y_max)?;
    axes.configure_mesh().x_desc(chart.x).y_desc(chart.y).light_line_style(WHITE).draw()?;
    for (line, colour) in chart.lines.iter().zip(COLOURS.iter().cycle()) {
        let drawn = axes.draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))?;
        drawn
            .label(line.name.as_str())
            .legend(|(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
        axes.draw_series(line.points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
    }
    axes.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_and_label_is_drawn() {
        let line =
            |name: &str, y: f64| Line { name: name.to_owned(), points: vec![(0.5, y), (1.0, 2.0 * y), (5.0, y)] };
        let chart =
            Chart { title: "A title", x: "across", y: "up", lines: vec![line("first", 3.0), line("second", 40.0)] };
        let svg = render(&chart);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for part in ["A title", "across", "up", "first", "second"] {
            assert!(svg.contains(part), "{part} is missing");
        }
        assert_eq!(svg.matches("<circle").count(), 6);
        assert_eq!(svg, render(&chart));
    }
}

//! Sources of settings that points inherit, for `wellhead check --points`.

/// The source of a setting of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetBy {
    /// Nobody.
    #[default]
    Default,
    /// The point itself, in its device.
    Point,
    /// The point of the profile.
    ProfilePoint,
    /// The device.
    Device,
    /// The profile, for all its points.
    Profile,
    /// The line.
    Line,
    /// `defaults:` of the file.
    Defaults,
}

impl SetBy {
    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Point => "point",
            Self::ProfilePoint => "profile's point",
            Self::Device => "device",
            Self::Profile => "profile",
            Self::Line => "line",
            Self::Defaults => "defaults",
        }
    }
}

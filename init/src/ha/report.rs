//! What `/ha` of the health port tells peers, and `status` tells people.

use serde::{Deserialize, Serialize};

/// What a server is at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It takes writes, or would if it ran.
    Primary,
    /// It follows.
    #[default]
    Standby,
}

/// The standby that commits wait for, as the primary sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyStatus {
    /// Its `application_name`.
    pub name: String,
    /// `in step`, `behind` or `away`.
    pub state: String,
    /// Whether commits wait for it.
    pub commits_wait: bool,
}

/// A peer, as it was seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Where its health port is.
    pub address: String,
    /// What it says.
    pub said: String,
}

/// One of a pair. Numbers that JSON would round are texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaStatus {
    /// Which run of which server this is: by it one knows itself.
    pub instance: String,
    /// What it is.
    pub role: Role,
    /// Its cluster.
    pub system_id: String,
    /// Whose database it is: a fork has the same cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Whether it was freed of what it was a fork of.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub is_fork: bool,
    /// The newest timeline that it knows of.
    pub timeline: u32,
    /// Whether its server runs and is not about to end.
    pub serving: bool,
    /// On a standby: whether it holds all that was acknowledged on the timeline.
    pub in_step: bool,
    /// Where it was promoted: the timeline that it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<u32>,
    /// On a primary: its standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<StandbyStatus>,
    /// The others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerStatus>,
}

impl HaStatus {
    /// For eyes.
    #[must_use]
    pub fn line(&self) -> String {
        let promoted = self.promoted.map(|timeline| format!(", promoted to timeline {timeline}")).unwrap_or_default();
        let role = match self.role {
            Role::Primary => {
                let standby = self.standby.as_ref().map(|standby| {
                    let waits = if standby.commits_wait { "commits wait for it" } else { "commits do not wait for it" };
                    format!(", standby {} {}, {waits}", standby.name, standby.state)
                });
                format!("primary{}", standby.unwrap_or_default())
            }
            Role::Standby if self.in_step => "standby, in step".to_owned(),
            Role::Standby => "standby, not known to be in step".to_owned(),
        };
        format!("timeline {}{promoted}, {role}", self.timeline)
    }

    /// Whether the loss of the primary would lose nothing, as far as this one knows.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        match self.role {
            Role::Primary => self.standby.as_ref().is_some_and(|standby| standby.commits_wait && standby.state == "in step"),
            Role::Standby => self.in_step,
        }
    }

    /// What others need to know of it, as JSON.
    #[must_use]
    pub fn to_peers(&self) -> String {
        let short = Self { peers: Vec::new(), ..self.clone() };
        serde_json::to_string(&short).unwrap_or_default()
    }

    /// What a peer says of itself, in a line.
    #[must_use]
    pub fn as_peer(&self) -> String {
        let role = match self.role {
            Role::Primary => "primary",
            Role::Standby => "standby",
        };
        format!("{role} on timeline {}{}", self.timeline, if self.serving { "" } else { ", its server does not run" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_told_what_they_need() {
        let standby = StandbyStatus { name: "b".to_owned(), state: "in step".to_owned(), commits_wait: true };
        let peers = vec![PeerStatus { address: "10.0.0.1:1".to_owned(), said: "x".to_owned() }];
        let own = HaStatus {
            role: Role::Primary,
            system_id: u64::MAX.to_string(),
            timeline: 2,
            serving: true,
            standby: Some(standby),
            peers,
            ..HaStatus::default()
        };
        let told: HaStatus = serde_json::from_str(&own.to_peers()).unwrap();
        assert_eq!(told, HaStatus { peers: Vec::new(), ..own.clone() });
        assert_eq!(own.line(), "timeline 2, primary, standby b in step, commits wait for it");
        assert_eq!(own.as_peer(), "primary on timeline 2");
    }
}

//! Credits of NIs in a file: the first number that an NI says is the node's, and NIs that say another have that.

use super::keys::Part;
use super::model::Model;
use super::reader::CREDITS;

impl Model {
    /// NIs that say nothing of credits have the default where others do, and not another NI's number.
    pub(super) fn settle_credits(&mut self) {
        let Some(said) = self.said(Part::Tunables, CREDITS) else { return };
        let usual = Some(said.key.default()).filter(|d| d != said.value()).and_then(|d| d.parse().ok());
        for ni in self.nis.iter_mut().filter(|n| n.credits_said.is_none()) {
            ni.credits = usual;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reader::read;
    use super::*;

    /// The first number that is said is the node's, and was that of all NIs that said none.
    #[test]
    fn an_ni_that_says_no_credits_has_none_of_anothers() {
        let credits = |nis: &str| {
            let m = read(&format!("net: [{{net type: tcp, local NI(s): [{nis}]}}]")).unwrap();
            let all: Vec<_> = m.nis.iter().map(|n| n.credits).collect();
            (m.said(Part::Tunables, CREDITS).map(|s| s.value().to_owned()), all)
        };
        let [silent, more] = ["{nid: 10.0.0.1@tcp}", "{nid: 10.0.0.2@tcp, tunables: {credits: 64}}"];
        let said = Some("64".to_owned());
        assert_eq!(credits(&format!("{silent}, {more}")), (said.clone(), vec![Some(256), None]));
        assert_eq!(credits(&format!("{more}, {silent}")), (said, vec![None, Some(256)]));
        assert_eq!(credits(silent), (None, vec![None]));
        let usual = credits(&format!("{silent}, {}", more.replace("64", "256")));
        assert_eq!(usual, (Some("256".into()), vec![None, None]));
    }
}

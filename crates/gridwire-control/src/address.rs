//! Which resource: its place in the tree, its key in the store and its two writings as an ARM id.

use crate::kinds::{Kind, Numbering};

/// A resource's place. Equal resources have equal keys, whatever case or form they were addressed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub subscription: String,
    pub resource_group: String,
    pub kind: &'static Kind,
    /// The names from the outermost resource to this one: as many as `kind` has levels.
    pub names: Vec<String>,
}

/// How a resource was addressed, and so how its id is written back. Only event subscriptions of a topic, a
/// domain or a domain topic have both forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `…/topics/{t}/eventSubscriptions/{e}`
    Nested,
    /// `…/topics/{t}/providers/Microsoft.EventGrid/eventSubscriptions/{e}`
    Scope,
}

impl Address {
    pub(crate) fn name(&self) -> &str {
        self.names.last().expect("an address has the name of its resource")
    }

    /// The key in the store: lower-cased, so that case does not tell resources apart, and beginning with the
    /// parent's key, so that a prefix finds all that is below.
    pub(crate) fn key(&self) -> String {
        let mut key = group_prefix(&self.subscription, &self.resource_group);
        for (kind, name) in self.kind.lineage().iter().zip(&self.names) {
            key.push('/');
            key.push_str(kind.segment);
            key.push('/');
            key.push_str(name);
        }
        key.make_ascii_lowercase();
        key
    }

    pub(crate) fn parent(&self) -> Option<Self> {
        let kind = self.kind.parent?;
        let names = self.names[..self.names.len() - 1].to_vec();
        Some(Self {
            subscription: self.subscription.clone(),
            resource_group: self.resource_group.clone(),
            kind,
            names,
        })
    }

    /// What takes the events: this resource or the nearest above it that does. `None` for a namespace.
    pub(crate) fn topic(&self) -> Option<Self> {
        let mut at = self.clone();
        while at.kind.numbering != Numbering::Topic {
            at = at.parent()?;
        }
        Some(at)
    }

    /// The nearest resource above that has properties of its own.
    pub(crate) fn ground(&self) -> Option<Self> {
        let mut at = self.parent()?;
        while at.kind.bare {
            at = at.parent()?;
        }
        Some(at)
    }

    /// What the keys of this resource and its siblings begin with.
    pub(crate) fn siblings(&self) -> String {
        let mut key = self.key();
        key.truncate(key.len() - self.name().len());
        key
    }

    /// The ARM id, in the case the user wrote.
    pub(crate) fn id(&self, form: Form) -> String {
        let mut id = format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.EventGrid",
            self.subscription, self.resource_group
        );
        for (kind, name) in self.kind.lineage().iter().zip(&self.names) {
            if kind.extension && form == Form::Scope {
                id.push_str("/providers/Microsoft.EventGrid");
            }
            id.push('/');
            id.push_str(kind.segment);
            id.push('/');
            id.push_str(name);
        }
        id
    }

    /// The ARM type that goes with the id.
    pub(crate) fn type_name(&self, form: Form) -> &'static str {
        match form {
            Form::Scope if self.kind.extension => "Microsoft.EventGrid/eventSubscriptions",
            Form::Scope | Form::Nested => self.kind.type_name,
        }
    }
}

/// What the keys of all resources begin with.
pub(crate) const ROOT: &str = "/subscriptions/";

/// What the keys of a resource group's resources begin with, but for a slash.
pub(crate) fn group_prefix(subscription: &str, resource_group: &str) -> String {
    let mut prefix = format!("{ROOT}{subscription}/resourcegroups/{resource_group}");
    prefix.make_ascii_lowercase();
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::TOPIC_SUBSCRIPTION;

    #[test]
    fn one_resource_has_one_key_and_two_ids() {
        let address = Address {
            subscription: "S".into(),
            resource_group: "Rg".into(),
            kind: &TOPIC_SUBSCRIPTION,
            names: vec!["Orders".into(), "Audit".into()],
        };
        assert_eq!(
            address.key(),
            "/subscriptions/s/resourcegroups/rg/topics/orders/eventsubscriptions/audit"
        );
        assert_eq!(address.parent().unwrap().key(), "/subscriptions/s/resourcegroups/rg/topics/orders");
        let topic = "/subscriptions/S/resourceGroups/Rg/providers/Microsoft.EventGrid/topics/Orders";
        assert_eq!(address.id(Form::Nested), format!("{topic}/eventSubscriptions/Audit"));
        assert_eq!(
            address.id(Form::Scope),
            format!("{topic}/providers/Microsoft.EventGrid/eventSubscriptions/Audit")
        );
        assert_eq!(address.type_name(Form::Scope), "Microsoft.EventGrid/eventSubscriptions");
        assert_eq!(address.type_name(Form::Nested), "Microsoft.EventGrid/topics/eventSubscriptions");
    }
}

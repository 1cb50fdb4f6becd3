//! What all plugins together want of a container, gathered one answer after the other.
//!
//! Each plugin sees the container as those before it left it. A name that begins with `-` removes an entry, whoever set it; after that the entry
//! is free. Two plugins that set the same are in conflict, and the container is not made.

use std::collections::BTreeMap;

use proto::nri as wire;
use wire::Field;

use super::owners::{Conflict, Owners};

/// Marks a removal.
const REMOVE: char = '-';

/// What was gathered so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Merge {
    /// The container with all of it.
    pub(super) container: wire::Container,
    /// All adjustments.
    pub(super) adjust: wire::ContainerAdjustment,
    owners: Owners,
    updates: BTreeMap<String, (wire::ContainerUpdate, Owners)>,
    /// Containers that are to be stopped.
    pub(super) evictions: Vec<wire::ContainerEviction>,
}

impl Merge {
    /// Nothing is wanted yet of `container`.
    pub(super) fn new(container: wire::Container) -> Self {
        Self { container, ..Self::default() }
    }

    /// The changes to other containers.
    pub(super) fn updates(&self) -> Vec<wire::ContainerUpdate> {
        self.updates.values().map(|(update, _)| update.clone()).collect()
    }

    /// Who wants what, by container.
    pub(super) fn owners(&self) -> wire::OwningPlugins {
        let mut owners = BTreeMap::from([(self.container.id.clone(), self.owners.wire())]);
        owners.extend(self.updates.iter().map(|(id, (_, of))| (id.clone(), of.wire())));
        wire::OwningPlugins { owners }
    }

    /// Adds what `plugin` wants of the container.
    pub(super) fn adjust(&mut self, plugin: &str, wanted: wire::ContainerAdjustment) -> Result<(), Conflict> {
        let wire::ContainerAdjustment { annotations, mounts, env, hooks, linux, rlimits, cdi_devices, args } = wanted;
        self.map(
            Field::Annotations,
            plugin,
            annotations,
            |container| &mut container.annotations,
            |adjust| &mut adjust.annotations,
        )?;
        self.mounts(plugin, mounts)?;
        self.env(plugin, env)?;
        self.args(plugin, args)?;
        if let Some(hooks) = hooks {
            self.owners.share(Field::OciHooks, plugin);
            append_hooks(self.container.hooks.get_or_insert_default(), hooks.clone());
            append_hooks(self.adjust.hooks.get_or_insert_default(), hooks);
        }
        for limit in rlimits {
            self.owners.claim_entry(Field::Rlimits, &limit.r#type, plugin)?;
            replace(&mut self.container.rlimits, limit.clone(), |limit| &limit.r#type);
            replace(&mut self.adjust.rlimits, limit, |limit| &limit.r#type);
        }
        for device in cdi_devices {
            self.owners.claim_entry(Field::CdiDevices, &device.name, plugin)?;
            replace(&mut self.container.cdi_devices, device.clone(), |device| &device.name);
            replace(&mut self.adjust.cdi_devices, device, |device| &device.name);
        }
        linux.map_or(Ok(()), |linux| self.linux(plugin, linux))
    }

    fn linux(&mut self, plugin: &str, wanted: wire::LinuxContainerAdjustment) -> Result<(), Conflict> {
        let wire::LinuxContainerAdjustment {
            devices,
            resources,
            cgroups_path,
            oom_score_adj,
            io_priority,
            seccomp_policy,
            namespaces,
            sysctl,
            net_devices,
            scheduler,
            rdt,
            memory_policy,
        } = wanted;
        self.devices(plugin, devices)?;
        self.namespaces(plugin, namespaces)?;
        self.map(
            Field::Sysctl,
            plugin,
            sysctl,
            |container| &mut linux_of(container).sysctl,
            |adjust| &mut adjust.linux.get_or_insert_default().sysctl,
        )?;
        self.map(
            Field::LinuxNetDevices,
            plugin,
            net_devices,
            |container| &mut linux_of(container).net_devices,
            |adjust| &mut adjust.linux.get_or_insert_default().net_devices,
        )?;
        let container = linux_of(&mut self.container);
        let adjust = self.adjust.linux.get_or_insert_default();
        if let Some(resources) = resources {
            merge_resources(container.resources.get_or_insert_default(), &resources, None)?;
            let of = Some((&mut self.owners, plugin));
            merge_resources(adjust.resources.get_or_insert_default(), &resources, of)?;
        }
        if !cgroups_path.is_empty() {
            self.owners.claim(Field::CgroupsPath, plugin)?;
            container.cgroups_path.clone_from(&cgroups_path);
            adjust.cgroups_path = cgroups_path;
        }
        macro_rules! one {
            ($($value:ident $field:ident),*) => {$(
                if $value.is_some() {
                    self.owners.claim(Field::$field, plugin)?;
                    container.$value.clone_from(&$value);
                    adjust.$value = $value;
                }
            )*};
        }
        one!(oom_score_adj OomScoreAdj, io_priority IoPriority, seccomp_policy SeccompPolicy, scheduler LinuxSched, rdt RdtClosId);
        if memory_policy.is_some() {
            self.owners.claim(Field::MemoryPolicy, plugin)?;
            adjust.memory_policy = memory_policy;
        }
        Ok(())
    }

    /// Adds a change to an existing container. The container that is being made cannot be changed so.
    pub(super) fn update(&mut self, plugin: &str, wanted: wire::ContainerUpdate) -> Result<(), Conflict> {
        let id = wanted.container_id.clone();
        let empty = || (wire::ContainerUpdate { container_id: id.clone(), ..Default::default() }, Owners::default());
        let (update, owners) = self.updates.entry(id.clone()).or_insert_with(empty);
        update.ignore_failure |= wanted.ignore_failure;
        if let Some(resources) = wanted.linux.and_then(|linux| linux.resources) {
            let all = update.linux.get_or_insert_default().resources.get_or_insert_default();
            merge_resources(all, &resources, Some((owners, plugin)))?;
        }
        Ok(())
    }

    /// Entries of a map: those to be removed first, then those to be set.
    fn map<V: Clone + Default>(
        &mut self,
        field: Field,
        plugin: &str,
        wanted: BTreeMap<String, V>,
        of_container: impl Fn(&mut wire::Container) -> &mut BTreeMap<String, V>,
        of_adjust: impl Fn(&mut wire::ContainerAdjustment) -> &mut BTreeMap<String, V>,
    ) -> Result<(), Conflict> {
        for key in wanted.keys() {
            if let Some(name) = key.strip_prefix(REMOVE) {
                self.owners.release_entry(field, name);
                of_container(&mut self.container).remove(name);
                let adjust = of_adjust(&mut self.adjust);
                adjust.remove(name);
                adjust.insert(key.clone(), V::default());
            }
        }
        for (key, value) in wanted.into_iter().filter(|(key, _)| !key.starts_with(REMOVE)) {
            self.owners.claim_entry(field, &key, plugin)?;
            of_container(&mut self.container).insert(key.clone(), value.clone());
            of_adjust(&mut self.adjust).insert(key, value);
        }
        Ok(())
    }

    fn mounts(&mut self, plugin: &str, wanted: Vec<wire::Mount>) -> Result<(), Conflict> {
        let (owners, container, adjust) = (&mut self.owners, &mut self.container.mounts, &mut self.adjust.mounts);
        entries(owners, Field::Mounts, plugin, wanted, container, adjust, |mount| &mount.destination)
    }

    fn devices(&mut self, plugin: &str, wanted: Vec<wire::LinuxDevice>) -> Result<(), Conflict> {
        let container = &mut linux_of(&mut self.container).devices;
        let adjust = &mut self.adjust.linux.get_or_insert_default().devices;
        entries(&mut self.owners, Field::Devices, plugin, wanted, container, adjust, |device| &device.path)
    }

    fn namespaces(&mut self, plugin: &str, wanted: Vec<wire::LinuxNamespace>) -> Result<(), Conflict> {
        let container = &mut linux_of(&mut self.container).namespaces;
        let adjust = &mut self.adjust.linux.get_or_insert_default().namespaces;
        entries(&mut self.owners, Field::Namespace, plugin, wanted, container, adjust, |namespace| &namespace.r#type)
    }

    fn env(&mut self, plugin: &str, wanted: Vec<wire::KeyValue>) -> Result<(), Conflict> {
        let split = |line: &String| match line.split_once('=') {
            Some((key, value)) => wire::KeyValue { key: key.to_owned(), value: value.to_owned() },
            None => wire::KeyValue { key: line.clone(), value: String::new() },
        };
        let mut all: Vec<_> = self.container.env.iter().map(split).collect();
        entries(&mut self.owners, Field::Env, plugin, wanted, &mut all, &mut self.adjust.env, |variable| {
            &variable.key
        })?;
        self.container.env = all.into_iter().map(|variable| format!("{}={}", variable.key, variable.value)).collect();
        Ok(())
    }

    /// An empty first argument takes the place of what another plugin has set.
    fn args(&mut self, plugin: &str, wanted: Vec<String>) -> Result<(), Conflict> {
        let args = match wanted.split_first() {
            None => return Ok(()),
            Some((first, rest)) if first.is_empty() => rest.to_vec(),
            Some(_) => {
                self.owners.claim(Field::Args, plugin)?;
                wanted
            }
        };
        self.container.args.clone_from(&args);
        self.adjust.args = args;
        Ok(())
    }
}

fn linux_of(container: &mut wire::Container) -> &mut wire::LinuxContainer {
    container.linux.get_or_insert_default()
}

/// Entries of a list that have a name each: those to be removed first, then those to be set.
fn entries<T: Clone>(
    owners: &mut Owners,
    field: Field,
    plugin: &str,
    wanted: Vec<T>,
    container: &mut Vec<T>,
    adjust: &mut Vec<T>,
    name: impl Fn(&T) -> &String,
) -> Result<(), Conflict> {
    let (removed, set): (Vec<T>, Vec<T>) = wanted.into_iter().partition(|entry| name(entry).starts_with(REMOVE));
    for entry in removed {
        let key = &name(&entry)[REMOVE.len_utf8()..];
        owners.release_entry(field, key);
        container.retain(|known| name(known) != key);
        adjust.retain(|known| name(known) != key);
        replace(adjust, entry, &name);
    }
    for entry in set {
        owners.claim_entry(field, name(&entry), plugin)?;
        replace(container, entry.clone(), &name);
        replace(adjust, entry, &name);
    }
    Ok(())
}

/// Puts an entry in the place of one of the same name, or at the end.
fn replace<T>(list: &mut Vec<T>, entry: T, name: impl Fn(&T) -> &String) {
    match list.iter_mut().find(|known| name(known) == name(&entry)) {
        Some(known) => *known = entry,
        None => list.push(entry),
    }
}

fn append_hooks(all: &mut wire::Hooks, more: wire::Hooks) {
    all.prestart.extend(more.prestart);
    all.create_runtime.extend(more.create_runtime);
    all.create_container.extend(more.create_container);
    all.start_container.extend(more.start_container);
    all.poststart.extend(more.poststart);
    all.poststop.extend(more.poststop);
}

/// Sets in `all` what `wanted` has, for a plugin if its claims are to be checked.
pub(super) fn merge_resources(
    all: &mut wire::LinuxResources,
    wanted: &wire::LinuxResources,
    mut plugin: Option<(&mut Owners, &str)>,
) -> Result<(), Conflict> {
    let mut claim = |field| plugin.as_mut().map_or(Ok(()), |(owners, plugin)| owners.claim(field, plugin));
    macro_rules! set {
        ($all:expr, $wanted:expr; $($value:ident $field:ident),*) => {$(
            if $wanted.$value.is_some() {
                claim(Field::$field)?;
                $all.$value.clone_from(&$wanted.$value);
            }
        )*};
    }
    if let Some(memory) = &wanted.memory {
        set!(all.memory.get_or_insert_default(), memory; limit MemLimit, reservation MemReservation, swap MemSwapLimit,
            kernel MemKernelLimit, kernel_tcp MemTcpLimit, swappiness MemSwappiness, disable_oom_killer MemDisableOomKiller,
            use_hierarchy MemUseHierarchy);
    }
    if let Some(cpu) = &wanted.cpu {
        let to = all.cpu.get_or_insert_default();
        set!(to, cpu; shares CpuShares, quota CpuQuota, period CpuPeriod, realtime_runtime CpuRealtimeRuntime,
            realtime_period CpuRealtimePeriod);
        if !cpu.cpus.is_empty() {
            claim(Field::CpuSetCpUs)?;
            to.cpus.clone_from(&cpu.cpus);
        }
        if !cpu.mems.is_empty() {
            claim(Field::CpuSetMems)?;
            to.mems.clone_from(&cpu.mems);
        }
    }
    set!(all, wanted; blockio_class BlockioClass, rdt_class RdtClass, pids PidsLimit);
    let mut claim_entry =
        |field, key: &str| plugin.as_mut().map_or(Ok(()), |(owners, plugin)| owners.claim_entry(field, key, plugin));
    for limit in &wanted.hugepage_limits {
        claim_entry(Field::HugepageLimits, &limit.page_size)?;
        replace(&mut all.hugepage_limits, limit.clone(), |limit| &limit.page_size);
    }
    for (key, value) in &wanted.unified {
        claim_entry(Field::CgroupsUnified, key)?;
        all.unified.insert(key.clone(), value.clone());
    }
    // Rules about devices come with the container and are not for plugins to change.
    Ok(())
}

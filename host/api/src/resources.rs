//! The machine's hardware: `GET /1.0/resources`.

use crate::wire::wire;

wire! {
    /// The machine.
    pub struct Resources {
        /// Processors.
        pub cpu: ResourcesCpu,
        /// Memory.
        pub memory: ResourcesMemory,
        /// Graphics cards.
        pub gpu: ResourcesGpu,
        /// Network cards.
        pub network: ResourcesNetwork,
        /// Disks.
        pub storage: ResourcesStorage,
        /// USB devices.
        pub usb: ResourcesUsb,
        /// PCI devices.
        pub pci: ResourcesPci,
        /// The machine as a whole.
        pub system: ResourcesSystem,
        /// How busy it is.
        pub load: ResourcesLoad,
    }

    /// Processors.
    pub struct ResourcesCpu {
        /// The name of the architecture.
        pub architecture: String,
        /// Sockets.
        pub sockets: Vec<ResourcesCpuSocket>,
        /// Threads in all.
        pub total: u64,
    }

    /// A processor.
    pub struct ResourcesCpuSocket {
        /// Its model.
        pub name: String,
        /// Its maker.
        pub vendor: String,
        /// Its number.
        pub socket: u64,
        /// Its caches.
        pub cache: Vec<ResourcesCpuCache>,
        /// Its cores.
        pub cores: Vec<ResourcesCpuCore>,
        /// Its mean frequency now, in MHz.
        pub frequency: u64,
        /// Its lowest frequency, in MHz.
        pub frequency_minimum: u64,
        /// Its highest frequency, in MHz.
        pub frequency_turbo: u64,
    }

    /// A cache.
    pub struct ResourcesCpuCache {
        /// 1, 2, 3.
        pub level: u64,
        /// `Data`, `Instruction`, `Unified`.
        #[serde(rename = "type")]
        pub kind: String,
        /// Bytes.
        pub size: u64,
    }

    /// A core.
    pub struct ResourcesCpuCore {
        /// Its number in the socket.
        pub core: u64,
        /// Its die in the socket.
        pub die: u64,
        /// Its threads.
        pub threads: Vec<ResourcesCpuThread>,
        /// Its frequency now, in MHz.
        pub frequency: u64,
        /// What it can do, as `/proc/cpuinfo` names it.
        pub flags: Vec<String>,
    }

    /// A thread of a core.
    pub struct ResourcesCpuThread {
        /// Its number in the machine.
        pub id: i64,
        /// Its number in the core.
        pub thread: u64,
        /// Whether the scheduler leaves it alone.
        pub isolated: bool,
        /// Whether it is in use.
        pub online: bool,
        /// Its NUMA node.
        pub numa_node: u64,
    }

    /// Memory, in bytes.
    pub struct ResourcesMemory {
        /// By NUMA node.
        pub nodes: Vec<ResourcesMemoryNode>,
        /// Huge pages in all.
        pub hugepages_total: u64,
        /// Huge pages in use.
        pub hugepages_used: u64,
        /// The size of one.
        pub hugepages_size: u64,
        /// In use.
        pub used: u64,
        /// There is.
        pub total: u64,
    }

    /// A NUMA node's memory, in bytes.
    pub struct ResourcesMemoryNode {
        /// The node.
        pub numa_node: u64,
        /// Huge pages in all.
        pub hugepages_total: u64,
        /// Huge pages in use.
        pub hugepages_used: u64,
        /// In use.
        pub used: u64,
        /// There is.
        pub total: u64,
    }

    /// Graphics cards.
    pub struct ResourcesGpu {
        /// The cards.
        pub cards: Vec<ResourcesGpuCard>,
        /// How many.
        pub total: u64,
    }

    /// A graphics card.
    pub struct ResourcesGpuCard {
        /// The kernel's driver.
        pub driver: String,
        /// Its version.
        pub driver_version: String,
        /// Its NUMA node.
        pub numa_node: u64,
        /// Its place on the PCI bus.
        pub pci_address: String,
        /// Its maker.
        pub vendor: String,
        /// Its maker's number.
        pub vendor_id: String,
        /// What it is.
        pub product: String,
        /// The number of that.
        pub product_id: String,
    }

    /// Network cards.
    pub struct ResourcesNetwork {
        /// The cards.
        pub cards: Vec<ResourcesNetworkCard>,
        /// How many.
        pub total: u64,
    }

    /// A network card.
    pub struct ResourcesNetworkCard {
        /// The kernel's driver.
        pub driver: String,
        /// Its version.
        pub driver_version: String,
        /// The version of its firmware.
        pub firmware_version: String,
        /// Its NUMA node.
        pub numa_node: u64,
        /// Its place on the PCI bus.
        pub pci_address: String,
        /// Its maker.
        pub vendor: String,
        /// Its maker's number.
        pub vendor_id: String,
        /// What it is.
        pub product: String,
        /// The number of that.
        pub product_id: String,
        /// Its ports.
        pub ports: Vec<ResourcesNetworkCardPort>,
    }

    /// A port of a network card.
    pub struct ResourcesNetworkCardPort {
        /// The interface's name.
        pub id: String,
        /// Its MAC address.
        pub address: String,
        /// Its number on the card.
        pub port: u64,
        /// `ethernet`, `infiniband`.
        pub protocol: String,
        /// Whether something is at the other end.
        pub link_detected: bool,
        /// Whether it settles speed and duplex with the other end.
        pub auto_negotiation: bool,
        /// `full`, `half`; empty without a link.
        pub link_duplex: String,
        /// Mbit/s; 0 without a link.
        pub link_speed: u64,
    }

    /// Disks.
    pub struct ResourcesStorage {
        /// The disks.
        pub disks: Vec<ResourcesStorageDisk>,
        /// How many.
        pub total: u64,
    }

    /// A disk.
    pub struct ResourcesStorageDisk {
        /// The kernel's name of it.
        pub id: String,
        /// Its major and minor number.
        pub device: String,
        /// Its lasting name.
        pub device_id: String,
        /// The path it is attached by.
        pub device_path: String,
        /// Bytes of a block.
        pub block_size: u64,
        /// The version of its firmware.
        pub firmware_version: String,
        /// What it is.
        pub model: String,
        /// Its serial number.
        pub serial: String,
        /// Its world-wide name.
        pub wwn: String,
        /// `nvme`, `sata`, `scsi`, `virtio`, …
        #[serde(rename = "type")]
        pub kind: String,
        /// Its NUMA node.
        pub numa_node: u64,
        /// Its place on the PCI bus.
        pub pci_address: String,
        /// Its place on the USB.
        pub usb_address: String,
        /// Whether it can't be written to.
        pub read_only: bool,
        /// Whether it can be taken out.
        pub removable: bool,
        /// Turns a minute; 0 when nothing turns.
        pub rpm: u64,
        /// Bytes.
        pub size: u64,
        /// Its partitions.
        pub partitions: Vec<ResourcesStorageDiskPartition>,
    }

    /// A partition.
    pub struct ResourcesStorageDiskPartition {
        /// The kernel's name of it.
        pub id: String,
        /// Its major and minor number.
        pub device: String,
        /// Its number on the disk.
        pub partition: u64,
        /// Whether it can't be written to.
        pub read_only: bool,
        /// Bytes.
        pub size: u64,
    }

    /// USB devices.
    pub struct ResourcesUsb {
        /// The devices.
        pub devices: Vec<ResourcesUsbDevice>,
        /// How many.
        pub total: u64,
    }

    /// A USB device.
    pub struct ResourcesUsbDevice {
        /// Its bus.
        pub bus_address: u64,
        /// Its number on it.
        pub device_address: u64,
        /// Mbit/s.
        pub speed: f64,
        /// Its maker.
        pub vendor: String,
        /// Its maker's number.
        pub vendor_id: String,
        /// What it is.
        pub product: String,
        /// The number of that.
        pub product_id: String,
        /// Its serial number.
        pub serial: String,
    }

    /// PCI devices.
    pub struct ResourcesPci {
        /// The devices.
        pub devices: Vec<ResourcesPciDevice>,
        /// How many.
        pub total: u64,
    }

    /// A PCI device.
    pub struct ResourcesPciDevice {
        /// The kernel's driver.
        pub driver: String,
        /// Its version.
        pub driver_version: String,
        /// Its group in the IOMMU.
        pub iommu_group: u64,
        /// Its NUMA node.
        pub numa_node: u64,
        /// Its place on the bus.
        pub pci_address: String,
        /// Its maker.
        pub vendor: String,
        /// Its maker's number.
        pub vendor_id: String,
        /// What it is.
        pub product: String,
        /// The number of that.
        pub product_id: String,
    }

    /// The machine as a whole, as its firmware describes it.
    pub struct ResourcesSystem {
        /// Its UUID.
        pub uuid: String,
        /// Its maker.
        pub vendor: String,
        /// What it is.
        pub product: String,
        /// The family of that.
        pub family: String,
        /// The version of that.
        pub version: String,
        /// The order number of that.
        pub sku: String,
        /// Its serial number.
        pub serial: String,
        /// `physical`, `virtual-machine`, `container`.
        #[serde(rename = "type")]
        pub kind: String,
        /// Its firmware.
        pub firmware: Option<ResourcesSystemFirmware>,
        /// Its case.
        pub chassis: Option<ResourcesSystemChassis>,
        /// Its main board.
        pub motherboard: Option<ResourcesSystemMotherboard>,
    }

    /// Firmware.
    pub struct ResourcesSystemFirmware {
        /// Its maker.
        pub vendor: String,
        /// When it was made.
        pub date: String,
        /// Its version.
        pub version: String,
    }

    /// A case.
    pub struct ResourcesSystemChassis {
        /// Its maker.
        pub vendor: String,
        /// What kind.
        #[serde(rename = "type")]
        pub kind: String,
        /// Its serial number.
        pub serial: String,
        /// Its version.
        pub version: String,
    }

    /// A main board.
    pub struct ResourcesSystemMotherboard {
        /// Its maker.
        pub vendor: String,
        /// What it is.
        pub product: String,
        /// Its serial number.
        pub serial: String,
        /// Its version.
        pub version: String,
    }

    /// How busy the machine is; the names are those of the wire.
    pub struct ResourcesLoad {
        /// Over one minute.
        #[serde(rename = "Average1Min")]
        pub average_1_min: f64,
        /// Over five minutes.
        #[serde(rename = "Average5Min")]
        pub average_5_min: f64,
        /// Over ten minutes by its name; the kernel's figure is over fifteen.
        #[serde(rename = "Average10Min")]
        pub average_10_min: f64,
        /// How many processes there are.
        #[serde(rename = "Processes")]
        pub processes: i64,
    }
}

//! Graphs made by capture, and their replay.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::abi::Out;
use super::context::current;
use super::errors::{Code, Outcome, exports};
use super::event::Recording;
use super::inject::{Call, On, count};
use super::queue::Point;
use super::stream::Lane;
use super::{Handle, driver, lock};

/// A piece of work that may run again and again.
pub type Work = Arc<dyn Fn() -> Outcome + Send + Sync>;

/// A piece of a graph.
pub struct Node {
    /// Earlier nodes that it comes after.
    pub after: Vec<usize>,
    /// `None` never ends.
    pub work: Option<Work>,
    /// An event that each launch records here.
    pub records: Option<Handle>,
}

/// What a capture recorded.
pub struct Graph {
    pub context: Handle,
    nodes: Arc<[Node]>,
}

/// A graph that can be launched.
pub struct Executable {
    pub context: Handle,
    nodes: Arc<[Node]>,
    launches: AtomicUsize,
    /// The latest launch: the next one waits for it.
    last: Mutex<Option<Point>>,
}

impl Graph {
    pub fn new(context: Handle, nodes: Vec<Node>) -> Graph {
        Graph { context, nodes: nodes.into() }
    }

    /// For each node, whether it is among `last` or comes before one of them.
    pub fn before(&self, last: &[usize]) -> Vec<bool> {
        let mut before = vec![false; self.nodes.len()];
        last.iter().for_each(|node| before[*node] = true);
        for (i, node) in self.nodes.iter().enumerate().rev() {
            if before[i] {
                node.after.iter().for_each(|earlier| before[*earlier] = true);
            }
        }
        before
    }
}

/// An order of the nodes that goes along one branch as far as it can before it takes up the next: from the last captured
/// branch to the first, or from the first to the last. Of branches that fork and join like brackets any two nodes that
/// nothing orders come in both orders, one way each.
fn along_branches(nodes: &[Node], last_first: bool) -> Vec<usize> {
    let mut missing: Vec<usize> = nodes.iter().map(|node| node.after.len()).collect();
    let mut followers = vec![Vec::new(); nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        node.after.iter().for_each(|earlier| followers[*earlier].push(i));
    }
    let push = |ready: &mut Vec<usize>, mut found: Vec<usize>| {
        // The top of the stack runs next.
        if !last_first {
            found.reverse();
        }
        ready.extend(found);
    };
    let mut ready = Vec::new();
    push(&mut ready, (0..nodes.len()).filter(|i| missing[*i] == 0).collect());
    let mut order = Vec::new();
    while let Some(node) = ready.pop() {
        order.push(node);
        let mut found = Vec::new();
        for follower in &followers[node] {
            missing[*follower] -= 1;
            if missing[*follower] == 0 {
                found.push(*follower);
            }
        }
        push(&mut ready, found);
    }
    order
}

impl Executable {
    /// Submits all nodes as one piece of work, or one that `hangs`.
    fn launch(&self, lane: &Lane, hangs: bool) -> Outcome {
        let launch = self.launches.fetch_add(1, Ordering::Relaxed);
        // Eager streams keep the order of the capture, as a single stream would.
        let order = match lane.context.deferred {
            true => along_branches(&self.nodes, launch.is_multiple_of(2)),
            false => (0..self.nodes.len()).collect(),
        };
        let mut recordings = Vec::new();
        let mut work: Option<Vec<Work>> = Some(Vec::new());
        for node in order {
            let node = &self.nodes[node];
            let piece = match node.records {
                Some(event) => {
                    recordings.push(Recording::of(event)?);
                    recordings.last().map(Recording::work)
                }
                None => node.work.clone(),
            };
            work = work.zip(piece).map(|(work, piece)| [work, vec![piece]].concat());
        }
        let context = Arc::clone(&lane.context);
        let work = work.filter(|_| !hangs).map(|work| -> Work {
            Arc::new(move || work.iter().take_while(|_| !context.faulted()).try_for_each(|work| work()))
        });
        let mut last = lock(&self.last);
        if let Some(point) = lane.add(last.clone().into_iter().collect(), work)? {
            recordings.into_iter().for_each(|recording| recording.at(&point));
            *last = Some(point);
        }
        Ok(())
    }
}

fn instantiate(executable: &Out<Handle>, graph: Handle) -> Outcome {
    count(Call::Graph, On::Current)?;
    current()?;
    let mut driver = driver()?;
    let graph = driver.graphs.get(graph)?;
    let (context, nodes) = (graph.context, Arc::clone(&graph.nodes));
    let added =
        driver.executables.add(Executable { context, nodes, launches: AtomicUsize::new(0), last: Mutex::default() });
    executable.set(added)
}

/// A live executable graph and the lane to run it in, of the same context.
fn find(executable: Handle, stream: Handle) -> Outcome<(Arc<Executable>, Lane)> {
    let lane = Lane::of(stream)?;
    let found = driver()?.executables.get(executable)?;
    if found.context == lane.context.handle { Ok((found, lane)) } else { Err(Code::INVALID_VALUE) }
}

exports! {
    /// `AUTO_FREE_ON_LAUNCH` (1) and `USE_NODE_PRIORITY` (8) change nothing here; the other flags belong
    /// to launches from the device and to an instantiation with parameters.
    fn cuGraphInstantiateWithFlags(executable: Out<Handle>, graph: Handle, flags: u64) {
        if flags & !9 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        instantiate(&executable, graph)
    }

    /// The form before CUDA 12.
    fn cuGraphInstantiate_v2(executable: Out<Handle>, graph: Handle, _node: Handle, _log: Handle, _size: usize) {
        instantiate(&executable, graph)
    }

    /// There is nothing to upload.
    fn cuGraphUpload(executable: Handle, stream: Handle) {
        count(Call::Graph, On::Stream(stream))?;
        find(executable, stream).map(|_| ())
    }

    fn cuGraphLaunch(executable: Handle, stream: Handle) {
        let hangs = count(Call::Graph, On::Stream(stream))?;
        let (executable, lane) = find(executable, stream)?;
        executable.launch(&lane, hangs)
    }

    /// Launches under way go on.
    fn cuGraphExecDestroy(executable: Handle) {
        driver()?.executables.remove(executable).map(|_| ())
    }

    fn cuGraphDestroy(graph: Handle) {
        driver()?.graphs.remove(graph).map(|_| ())
    }

    /// The number of nodes alone: `nodes` must be null.
    fn cuGraphGetNodes(graph: Handle, nodes: Handle, number: Out<usize>) {
        let graph = driver()?.graphs.get(graph)?;
        if nodes != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        number.set(graph.nodes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(after: &[&[usize]], last_first: bool) -> Vec<usize> {
        let nodes: Vec<Node> =
            after.iter().map(|after| Node { after: after.to_vec(), work: None, records: None }).collect();
        along_branches(&nodes, last_first)
    }

    #[test]
    fn branches_come_in_both_orders() {
        // A fork of 0 into 1-3 and 2-4, joined by 5.
        let fork: &[&[usize]] = &[&[], &[0], &[0], &[1], &[2], &[3, 4]];
        assert_eq!(order(fork, true), [0, 2, 4, 1, 3, 5]);
        assert_eq!(order(fork, false), [0, 1, 3, 2, 4, 5]);
        // Two roots.
        assert_eq!(order(&[&[], &[], &[0], &[1]], true), [1, 3, 0, 2]);
        assert_eq!(order(&[&[], &[], &[0], &[1]], false), [0, 2, 1, 3]);
        assert_eq!(order(&[], true), Vec::<usize>::new());
    }

    #[test]
    fn what_comes_before() {
        let after: [&[usize]; 4] = [&[], &[0], &[0], &[1]];
        let nodes = after.map(|after| Node { after: after.to_vec(), work: None, records: None });
        let graph = Graph::new(0, nodes.into());
        assert_eq!(graph.before(&[3]), [true, true, false, true]);
        assert_eq!(graph.before(&[3, 2]), [true; 4]);
    }
}

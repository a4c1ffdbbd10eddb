//! PyTorch's `print(net)` form of a network.

use std::fmt::Write;

use super::{Network, Node, Op};
use crate::{Error, Result};

impl Network {
    /// What `print(net)` shows for the PyTorch module of this network, with its widths; no trailing newline.
    ///
    /// # Errors
    /// [`Error::Usage`] for a variant that PyTorch has no module for.
    pub fn torch_form(&self) -> Result<String> {
        let class = self.variant.torch_class.ok_or_else(|| {
            Error::Usage(format!(
                "{} has no PyTorch printed form (torchvision, half and single-tower do); leave out --format torch",
                self.variant.name
            ))
        })?;
        let mut text = format!("{class}(\n");
        let mut open = ""; // the Sequential whose children are being written
        for node in self.modules_in_declaration_order() {
            let (parent, child) = node.layer.module.rsplit_once('.').unwrap_or(("", node.layer.module));
            if parent != open {
                if !open.is_empty() {
                    text.push_str("  )\n");
                }
                if !parent.is_empty() {
                    writeln!(text, "  ({parent}): Sequential(").expect("writing to a String");
                }
                open = parent;
            }
            let indent = if parent.is_empty() { "  " } else { "    " };
            writeln!(text, "{indent}({child}): {}", torch_module(node)).expect("writing to a String");
        }
        if !open.is_empty() {
            text.push_str("  )\n");
        }
        text.push(')');
        Ok(text)
    }

    /// Nodes that have a module, each module once. A flat network declares its shared dropout before its fully
    /// connected layers, though it runs after the first of them.
    fn modules_in_declaration_order(&self) -> Vec<&Node> {
        let mut nodes: Vec<&Node> = vec![];
        for node in self.nodes.iter().filter(|n| !n.layer.module.is_empty()) {
            if nodes.iter().all(|n| n.layer.module != node.layer.module) {
                nodes.push(node);
            }
        }
        if !self.variant.layers.iter().any(|l| l.module.contains('.')) {
            nodes.sort_by_key(|n| match n.layer.op {
                Op::Dropout { .. } => 1,
                Op::Linear { .. } => 2,
                _ => 0,
            });
        }
        nodes
    }
}

fn torch_module(node: &Node) -> String {
    match node.layer.op {
        Op::Conv(conv) => {
            let (k, s, p) = (conv.kernel, conv.stride, conv.padding);
            let mut text =
                format!("Conv2d({}, {}, kernel_size=({k}, {k}), stride=({s}, {s})", node.input.c, node.output.c);
            if p != 0 {
                write!(text, ", padding=({p}, {p})").expect("writing to a String");
            }
            text + ")"
        }
        Op::Relu => "ReLU(inplace=True)".into(),
        Op::MaxPool(pool) => format!(
            "MaxPool2d(kernel_size={}, stride={}, padding=0, dilation=1, ceil_mode=False)",
            pool.kernel, pool.stride
        ),
        Op::AdaptiveAvgPool { output } => format!("AdaptiveAvgPool2d(output_size=({output}, {output}))"),
        Op::Dropout { p } => format!("Dropout(p={p}, inplace=False)"),
        Op::Linear { .. } => {
            format!("Linear(in_features={}, out_features={}, bias=True)", node.input.len(), node.output.c)
        }
        Op::Lrn(_) => unreachable!("no variant with a PyTorch form has LRN"),
    }
}

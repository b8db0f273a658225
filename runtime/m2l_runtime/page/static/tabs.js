// Notice other tabs of this page: each keeps its own drawing, but they share the machine.

/** Calls `onCount(others)` when the number of other tabs changes. */
export function watchTabs(onCount) {
  if (typeof BroadcastChannel !== "function") return;
  const channel = new BroadcastChannel(`m2l ${location.pathname}`);
  const me = `${Date.now()} ${Math.random()}`;
  const others = new Set();
  const send = (kind) => channel.postMessage({ kind, from: me });
  channel.addEventListener("message", ({ data }) => {
    const before = others.size;
    if (data.kind === "bye") others.delete(data.from);
    else others.add(data.from);
    if (data.kind === "hello") send("here");
    if (others.size !== before) onCount(others.size);
  });
  addEventListener("pagehide", () => send("bye"));
  addEventListener("pageshow", (event) => event.persisted && send("hello"));
  send("hello");
}

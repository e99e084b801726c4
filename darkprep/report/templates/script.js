"use strict";
// Pictures: two layers of one scene, the left one cut off at the divider.
for (const gallery of document.querySelectorAll(".gallery")) {
  const scenes = [...gallery.querySelectorAll(".stage")];
  const pick = (name) => gallery.querySelector(`[name=${name}]`);
  const show = () => {
    const chosen = pick("scene") ? Number(pick("scene").value) : 0;
    scenes.forEach((stage, index) => { stage.hidden = index !== chosen; });
    const stage = scenes[chosen];
    const steps = [...new Set([...stage.querySelectorAll("img[data-iteration]")].map((img) => Number(img.dataset.iteration)))];
    const slider = pick("step");
    if (slider) { slider.max = Math.max(0, steps.length - 1); }
    const step = slider ? steps[Math.min(Number(slider.value), steps.length - 1)] : steps[0];
    const find = (kind) => [...stage.querySelectorAll("img")].find((img) =>
      img.dataset.kind === kind && (img.dataset.iteration === undefined || Number(img.dataset.iteration) === step));
    for (const img of stage.querySelectorAll("img")) { img.classList.remove("left", "right"); img.setAttribute("aria-hidden", "true"); }
    for (const side of ["left", "right"]) {
      const img = find(pick(side).value);
      if (!img) { continue; }
      img.classList.add(side);
      img.removeAttribute("aria-hidden");
      stage.querySelector(side === "left" ? ".tag.l" : ".tag.r").textContent = img.dataset.label;
    }
    if (slider && step !== undefined) {
      const words = `after ${step.toLocaleString("en")} iterations`;
      gallery.querySelector("output").textContent = words;
      slider.setAttribute("aria-valuetext", words);
    }
    gallery.querySelector(".caption").textContent = stage.dataset.caption;
    cut(stage);
  };
  const cut = (stage) => {
    const divider = stage.querySelector("input");
    stage.style.setProperty("--cut", `${divider.value}%`);
    const [left, right] = [".tag.l", ".tag.r"].map((tag) => stage.querySelector(tag).textContent);
    divider.setAttribute("aria-valuetext", `${left} on the left ${Math.round(divider.value)} %, ${right} on the right`);
  };
  for (const stage of scenes) {
    const divider = stage.querySelector("input");
    divider.addEventListener("input", () => cut(stage));
    // The native thumb follows the pointer only roughly; the divider stands where the pointer is.
    const follow = (event) => {
      const box = stage.getBoundingClientRect();
      divider.value = Math.max(0, Math.min(100, 100 * (event.clientX - box.left) / box.width));
      cut(stage);
    };
    let held = false;
    divider.addEventListener("pointerdown", (event) => { held = true; divider.focus(); follow(event); });
    divider.addEventListener("pointermove", (event) => { if (held) { follow(event); } });
    for (const end of ["pointerup", "pointercancel"]) { divider.addEventListener(end, () => { held = false; }); }
  }
  for (const control of gallery.querySelectorAll(".picks select, .picks input")) { control.addEventListener("input", show); }
  show();
}
// Charts: the values at the pointer, or at the point that the arrow keys reached.
for (const plot of document.querySelectorAll(".plot[data-points]")) {
  const points = JSON.parse(plot.dataset.points);
  const cursor = plot.querySelector(".cursor"), readout = plot.querySelector(".readout");
  let at = points.length - 1;
  const mark = () => {
    const [place, words] = points[at];
    cursor.style.left = readout.style.left = `${100 * place}%`;
    readout.style.transform = `translateX(${place > 0.5 ? "calc(-100% - 8px)" : "8px"})`;
    readout.textContent = words;
    cursor.style.display = readout.style.display = "block";
  };
  const hide = () => { cursor.style.display = readout.style.display = "none"; };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const place = (event.clientX - box.left) / box.width;
    let best = 0;
    points.forEach((point, index) => { if (Math.abs(point[0] - place) < Math.abs(points[best][0] - place)) { best = index; } });
    at = best;
    mark();
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("focus", mark);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) { return; }
    event.preventDefault();
    at = Math.max(0, Math.min(points.length - 1, at + by));
    mark();
  });
}

// Two repairs for screen readers: entries of a bibliography are no list items, and the label of a
// quiz's input field is not tied to it.
document.addEventListener("DOMContentLoaded", () => {
  for (const list of document.querySelectorAll(".citation-list")) list.removeAttribute("role");
  for (const label of document.querySelectorAll(".InpLabel")) {
    label.parentElement.querySelector("input")?.setAttribute("aria-label", label.textContent);
  }
});

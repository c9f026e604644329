// Tells requirejs where the widget libraries of this book are, so that none is looked up elsewhere.
// Loaded before requirejs, and only on pages that hold widgets.
{
  const vendor = new URL("../vendor/", document.currentScript.src).href;
  window.require = {
    paths: {
      anywidget: `${vendor}anywidget`,
      "@jupyter-widgets": vendor,
      "@jupyter-widgets/html-manager/dist": vendor.slice(0, -1),
    },
  };
  // The widget manager speaks to MathJax 2; the page has MathJax 3, which sets its text itself.
  window.addEventListener("load", () => {
    if (window.MathJax) window.MathJax.Hub ??= { Queue() {} };
  });
}

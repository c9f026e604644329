/* global Reveal */
// Start the slides; a long one is set smaller until it fits.
const deck = new Reveal(document.querySelector(".reveal"), {
  width: 1200,
  height: 750,
  center: false,
  hash: true,
  slideNumber: "c/t",
  transition: "none",
});

function fit(slide) {
  const isLarge = () => slide.scrollHeight > 750 || slide.scrollWidth > 1200;
  for (let size = 30; isLarge() && size > 14; size -= 1) slide.style.fontSize = `${size}px`;
}

deck.on("ready", (event) => fit(event.currentSlide));
deck.on("slidechanged", (event) => fit(event.currentSlide));
deck.initialize();

// What of this page is wider than the screen, and which of its texts stands out too little from what is behind it.
const wrong = [];
const root = document.documentElement;
if (root.scrollWidth > root.clientWidth) wrong.push(`the page is ${root.scrollWidth} wide, the screen ${root.clientWidth}`);

const parse = (color) => color.match(/[\d.]+/g).map(Number);
const light = ([red, green, blue]) => {
  const [r, g, b] = [red, green, blue].map((one) => {
    const share = one / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const isOpaque = ([, , , alpha = 1]) => alpha > 0;
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = parse(getComputedStyle(at).backgroundColor);
    if (isOpaque(color)) return color;
  }
  return matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
};
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const text = texts.currentNode.data.trim();
  const element = texts.currentNode.parentElement;
  const box = element.getBoundingClientRect();
  if (!text || box.width <= 1 || box.height <= 1 || !element.checkVisibility({ opacityProperty: true })) continue;
  const style = getComputedStyle(element);
  const [one, other] = [light(parse(element.closest('svg') ? style.fill : style.color)), light(behind(element))];
  const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  const size = parseFloat(style.fontSize);
  const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if (contrast < (isLarge ? 3 : 4.5)) wrong.push(`${contrast.toFixed(2)}: ${text} (${style.color})`);
  if (box.right > root.clientWidth + 1 && !element.closest('.scroll')) wrong.push(`cut off: ${text}`);
}
return wrong;

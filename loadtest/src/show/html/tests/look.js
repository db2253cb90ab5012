// What is seen of the page, for browser.rs: its charts, and what is wrong with how it looks.
(() => {
  const faults = [];
  const inside = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2;

  const charts = [...document.querySelectorAll('svg.chart')].map(chart => {
    const name = chart.getAttribute('aria-label');
    const box = chart.getBoundingClientRect();
    const texts = [...chart.querySelectorAll('text')];
    const boxes = texts.map(text => text.getBoundingClientRect());
    texts.forEach((text, i) => {
      const size = parseFloat(getComputedStyle(text).fontSize) * box.width / chart.viewBox.baseVal.width;
      if (size < 9) faults.push(`${name}: "${text.textContent}" is ${size.toFixed(1)} px small`);
      if (!inside(boxes[i], box)) faults.push(`${name}: "${text.textContent}" is cut off`);
      for (let j = 0; j < i; j++) {
        if (meet(boxes[i], boxes[j])) faults.push(`${name}: "${text.textContent}" covers "${texts[j].textContent}"`);
      }
    });
    const drawn = [...chart.querySelectorAll('.line')].map(line => line.getTotalLength())
      .concat([...chart.querySelectorAll('.bar')].map(bar => bar.getBBox().width));
    return { name, width: box.width, height: box.height, left: box.left, top: box.top + scrollY, drawn };
  });

  // Contrast after WCAG 2.2, 1.4.3: at least 4.5 to 1 for text.
  const channels = colour => colour.match(/[\d.]+/g).map(Number);
  const luminance = colour => {
    const [r, g, b] = channels(colour).map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    const colour = getComputedStyle(element).backgroundColor;
    return channels(colour)[3] === 0 && element.parentElement ? ground(element.parentElement) : colour;
  };
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!own || element.closest('title')) continue;
    const style = getComputedStyle(element);
    const [a, b] = [luminance(element.closest('svg') ? style.fill : style.color), luminance(ground(element))].sort((a, b) => b - a);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) faults.push(`"${element.textContent.slice(0, 40)}" has a contrast of ${contrast.toFixed(1)}`);
  }

  const wide = document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth;
  if (wide > 0) faults.push(`the page is ${wide} px wider than the window`);
  return { charts, faults, ground: luminance(getComputedStyle(document.body).backgroundColor) };
})()

// Keeps the page as it is now: the server sends the elements that have changed, and this puts them in place.
// Everything can be seen without it, too; it adds the motion, the last minute, and how long ago things were.
(() => {
  'use strict';
  const lists = { revisions: 1, starts: 0, routes: 1 }; // how many children stand before the first part
  const link = document.getElementById('link');
  const filter = document.getElementById('q');
  const DOTS_IN_FLIGHT = 6;
  const SAMPLES = 60;

  function say(state, text) {
    link.dataset.state = state;
    if (link.textContent !== text) link.textContent = text;
  }

  function parse(html) {
    const template = document.createElement('template');
    template.innerHTML = html;
    return template.content.firstElementChild;
  }

  // Makes `old` what `now` is and keeps the elements, so that focus, what is open and transitions go on.
  function morph(old, now) {
    if (old.nodeType !== now.nodeType || old.nodeName !== now.nodeName) return void old.replaceWith(now);
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== now.data) old.data = now.data;
      return;
    }
    if (old.nodeName === 'TIME' && old.dateTime === now.dateTime) return;
    const isDetails = old.nodeName === 'DETAILS';
    for (const { name } of [...old.attributes])
      if (!now.hasAttribute(name) && !(isDetails && name === 'open')) old.removeAttribute(name);
    for (const { name, value } of now.attributes)
      if (old.getAttribute(name) !== value && !(isDetails && name === 'open')) old.setAttribute(name, value);
    if (old.hasAttribute('data-keep')) return;
    const next = [...now.childNodes];
    for (const [place, child] of [...old.childNodes].entries())
      if (place < next.length) morph(child, next[place]); else child.remove();
    old.append(...next.slice(old.childNodes.length));
  }

  function arrange(id, ids) {
    const list = document.getElementById(id);
    const wanted = new Set(ids);
    for (const child of [...list.children].slice(lists[id])) if (!wanted.has(child.id)) child.remove();
    ids.forEach((one, place) => {
      const here = list.children[lists[id] + place];
      if (here && here.id === one) return;
      const element = document.getElementById(one);
      if (element) list.insertBefore(element, here || null);
    });
  }

  // The newest start stands open until a person opens or closes one.
  let opened = false;
  document.getElementById('starts').addEventListener('click', (event) => {
    if (event.target.closest('summary')) opened = true;
  });
  function openNewest(part) {
    if (opened) return part.removeAttribute('open');
    for (const other of document.querySelectorAll('#starts > details[open]')) if (other !== part) other.open = false;
  }

  function take({ parts, lists: orders }) {
    for (const [id, html] of Object.entries(parts)) {
      const now = parse(html);
      const old = document.getElementById(id);
      if (old) {
        const done = Number(old.dataset.done);
        morph(old, now);
        if (Number(old.dataset.done) > done) fly(old, Number(old.dataset.done) - done);
      } else {
        const list = id.startsWith('revision:') ? 'revisions' : id.startsWith('start:') ? 'starts' : 'routes';
        if (list === 'starts' && now.open) openNewest(now);
        document.getElementById(list).append(now);
      }
    }
    for (const [id, ids] of Object.entries(orders)) arrange(id, ids);
    ages();
  }

  // Requests that went on since the last look pass the gate.
  function fly(row, count) {
    const flight = row.querySelector('.flight');
    if (!flight || document.hidden || flight.childElementCount > DOTS_IN_FLIGHT * 2) return;
    for (let one = 0; one < Math.min(count, DOTS_IN_FLIGHT); one += 1) {
      const dot = document.createElementNS('http://www.w3.org/2000/svg', 'circle');
      dot.setAttribute('class', 'flying');
      dot.setAttribute('cx', 142);
      dot.setAttribute('cy', 14);
      dot.setAttribute('r', 3.2);
      dot.style.animationDelay = `${one * 40}ms`;
      dot.addEventListener('animationend', () => dot.remove());
      flight.append(dot);
    }
  }

  // The last minute, a bar a second: requests that went on, and above them those that were parked.
  const history = new Map();
  function sample() {
    const rows = document.querySelectorAll('#revisions > tbody');
    const seen = new Set();
    for (const row of rows) {
      const done = Number(row.dataset.done);
      const known = history.get(row.id) || { done, bars: [] };
      known.bars.push([Math.max(0, done - known.done), Number(row.dataset.parked)]);
      known.bars = known.bars.slice(-SAMPLES);
      known.done = done;
      history.set(row.id, known);
      seen.add(row.id);
      draw(row, known.bars);
    }
    for (const id of history.keys()) if (!seen.has(id)) history.delete(id);
  }

  function draw(row, bars) {
    const cell = row.querySelector('.spark');
    const most = Math.max(1, ...bars.map(([done, held]) => done + held));
    const isQuiet = bars.every(([done, held]) => done + held === 0);
    let picture = cell.firstElementChild;
    if (!picture) {
      if (isQuiet) return;
      picture = parse('<svg viewBox="0 0 120 28" aria-hidden="true"><path class="done"/><path class="held"/></svg>');
      cell.append(picture);
    }
    const paths = ['', ''];
    bars.forEach(([done, held], place) => {
      const x = 120 - (bars.length - place) * 2;
      const low = (done / most) * 26;
      const high = (held / most) * 26;
      if (done) paths[0] += `M${x} 28v${-Math.max(low, 1)}h1.6v${Math.max(low, 1)}z`;
      if (held) paths[1] += `M${x} ${28 - low}v${-Math.max(high, 1)}h1.6v${Math.max(high, 1)}z`;
    });
    [...picture.children].forEach((path, place) => path.setAttribute('d', paths[place]));
    const went = bars.reduce((sum, [done]) => sum + done, 0);
    cell.title = `${went} requests went on in the last ${bars.length} s`;
  }

  function ages() {
    const now = Date.now();
    for (const time of document.querySelectorAll('time')) {
      const at = new Date(time.dateTime);
      const seconds = Math.max(0, Math.round((now - at) / 1000));
      const text =
        seconds < 2 ? 'just now' : seconds < 100 ? `${seconds} s ago`
          : seconds < 6000 ? `${Math.round(seconds / 60)} min ago` : at.toLocaleString();
      if (time.textContent !== text) {
        time.textContent = text;
        time.title = at.toLocaleString();
      }
    }
  }

  // One connection while someone looks.
  let events = null;
  function listen() {
    if (events) events.close();
    events = null;
    if (document.hidden) return say('rest', 'paused');
    const asked = new URLSearchParams(location.search);
    const query = new URLSearchParams({ q: filter.value });
    if (asked.has('starts')) query.set('starts', asked.get('starts'));
    const mine = new EventSource(`/events?${query}`);
    events = mine;
    mine.onopen = () => say('live', 'live');
    mine.onmessage = ({ data }) => take(JSON.parse(data));
    mine.onerror = () => {
      if (mine !== events) return;
      if (mine.readyState === EventSource.CLOSED) {
        say('lost', 'no live view now; trying again');
        setTimeout(() => mine === events && listen(), 10000);
      } else say('lost', 'Parkway does not answer; trying again');
    };
  }
  document.addEventListener('visibilitychange', listen);
  addEventListener('pagehide', () => events && events.close());
  addEventListener('pageshow', (event) => event.persisted && listen());

  let typing = 0;
  filter.addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      const url = new URL(location);
      if (filter.value) url.searchParams.set('q', filter.value); else url.searchParams.delete('q');
      window.history.replaceState(null, '', url);
      listen();
    }, 150);
  });
  document.getElementById('filter').addEventListener('submit', (event) => event.preventDefault());
  document.addEventListener('keydown', (event) => {
    const isTyping = event.target.closest('input, textarea, select');
    if (event.key === '/' && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      filter.focus();
      filter.select();
    } else if (event.key === 'Escape' && event.target === filter) {
      filter.value = '';
      filter.dispatchEvent(new Event('input'));
      filter.blur();
    }
  });

  const form = document.getElementById('try');
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const answer = document.getElementById('answer');
    try {
      const response = await fetch(`/?${new URLSearchParams(new FormData(form))}`);
      const page = new DOMParser().parseFromString(await response.text(), 'text/html');
      answer.replaceWith(document.adoptNode(page.getElementById('answer')));
    } catch (error) {
      answer.textContent = `Parkway does not answer: ${error.message}`;
    }
  });

  document.documentElement.classList.add('live');
  setInterval(() => { if (!document.hidden) { sample(); ages(); } }, 1000);
  ages();
  listen();
})();

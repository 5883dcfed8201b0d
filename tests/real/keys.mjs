// An operator without a mouse: node keys.mjs NODE_MODULES CHROMIUM PROFILE PLAN
// PLAN is JSON: { login, user, password, secret, account = a credential to sign in for, walk = paths behind the session's that are walked by Tab }. Prints one JSON object. The profile
// is the browser's own folder: what stands in it when the browser has ended is what it keeps.
import { createRequire } from 'node:module';
const [modules, chromium_, profile, text] = process.argv.slice(2);
const plan = JSON.parse(text);
const { chromium } = createRequire(modules + '/x.js')('playwright-core');
const context = await chromium.launchPersistentContext(profile, { executablePath: chromium_, args: ['--no-sandbox', '--disable-gpu'], viewport: { width: 1280, height: 800 } });
const page = context.pages()[0] ?? await context.newPage();
const press = (key) => page.keyboard.press(key);

// What stands there as Tab has it: the control, and whether a person sees where they are.
const here = () => page.evaluate(() => {
  const at = document.activeElement;
  if (!at || at === document.body || at === document.documentElement) return null;
  const box = at.getBoundingClientRect(), style = getComputedStyle(at);
  globalThis.stops ??= [];
  if (globalThis.stops.at(-1) !== at) globalThis.stops.push(at);
  return { says: (at.getAttribute('aria-label') || at.innerText || at.name || at.tagName).trim().split('\n')[0], name: at.name || '', tag: at.tagName.toLowerCase(), href: at.getAttribute('href') || '',
    seen: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.right > 0 && box.bottom > 0 && box.top < innerHeight };
});
// Tab until `is` says so: what was passed.
async function tab(is, most = 150) {
  for (let i = 0; i < most; i++) {
    await press('Tab');
    const at = await here();
    if (at && is(at)) return at;
  }
  throw new Error(`Tab does not reach ${is} on ${page.url()}`);
}
const says = (words) => (at) => at.says === words;
const field = (name) => (at) => at.name === name;
const onward = (key) => Promise.all([page.waitForNavigation(), press(key)]);

const out = { walks: {} };
await page.goto(plan.login);
await tab(field('user'));
await page.keyboard.type(plan.user);
await press('Tab');
await page.keyboard.type(plan.password);
await Promise.all([page.waitForURL(/\/s\/[\w-]+\/$/), press('Enter')]);        // a form is sent from its field
const base = page.url();

// Each control of a page, in the order in which it stands, by Tab alone; and backwards by Shift+Tab.
for (const path of plan.walk) {
  await page.goto(base + path);
  await page.evaluate(() => document.querySelectorAll('details').forEach((d) => { d.open = true; }));
  const unseen = [];
  let first, n = 0;
  for (; n < 400; n++) {
    await press('Tab');
    const at = await here();
    if (!at) { if (n === 0) continue; else break; }      // past the last: the browser's own bar, which has none here
    if (n > 1 && await page.evaluate(() => document.activeElement === globalThis.stops[0])) break;
    first ??= at.says;
    if (!at.seen) unseen.push(at);
  }
  out.walks[path] = await page.evaluate(() => {
    const stops = globalThis.stops, all = [...document.querySelectorAll('a[href],button,input:not([type=hidden]),select,textarea,summary,[tabindex]')].filter((e) => e.checkVisibility());
    return { stops: stops.length, missed: all.filter((e) => !stops.includes(e)).map((e) => e.outerHTML.slice(0, 120)), clickable: document.querySelectorAll('[onclick],[tabindex]:not([tabindex="0"])').length,
      order: stops.slice(1).filter((e, i) => e !== stops[0] && !(stops[i].compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING)).map((e) => e.outerHTML.slice(0, 120)) };
  });
  Object.assign(out.walks[path], { unseen, first });
}

// From the first page to a credential that is tried, without a mouse: links by Enter, buttons by Space, lists by letters.
await page.goto(base);
await press('Tab');
out.skip = await here();
await onward('Enter').catch(() => {});
out.skipped = new URL(page.url()).hash;
await page.goto(base);
await tab(says('Connect an app'));
await onward('Enter');
await tab(field('q'));
await page.keyboard.type('stripe');
await onward('Enter');
await tab((at) => at.says === 'Stripe');
await onward('Enter');
await tab(field('a1'));
await page.keyboard.press('End');
await page.keyboard.type('-mine');
await tab(field('f.token'));
await page.keyboard.type(plan.secret);
await tab((at) => at.tag === 'summary');
await press('Space');
out.open = await page.evaluate(() => document.querySelector('details').open);
await tab(says('Connect'));
await onward('Space');
out.kept = (await page.textContent('main')).includes("Kept 'stripe-mine'");

// An account: to the provider, whose own pages come first, and back into the session that sent the person there.
await page.goto(base + 'account/' + plan.account);
await tab(says('Go on'));
await onward('Enter');
await tab((at) => at.says.startsWith('Open '));
await onward('Enter');
for (let i = 0; i < 6 && !page.url().includes('/callback?'); i++) {
  if (await page.$('[name=login]')) await page.fill('[name=login]', 'somebody');
  if (await page.$('[name=password]')) await page.fill('[name=password]', 'x');
  await Promise.all([page.waitForNavigation(), page.click('[type=submit]')]);
}
out.connected = (await page.textContent('main')).includes('The account is connected to');
await tab(says('Go on'));
await onward('Enter');
out.inside = page.url() === base + 'credentials/' + plan.account;

// A box by Space, a choice by a letter.
await page.goto(base + 'do/user/add');
await tab(field('o.operator'));
await press('Space');
out.box = await page.isChecked('[name="o.operator"]');
await press('Space');
out.box = out.box && !await page.isChecked('[name="o.operator"]');
await page.goto(base + 'do/rule/add');
await tab(field('o.type'));
await page.keyboard.type('rate');
out.choice = await page.inputValue('[name="o.type"]');

// The editor: what is typed goes in, Tab goes out, both ways, and changes nothing.
await page.goto(base + 'policies/rate');
await tab(field('source'));
const before = await page.inputValue('[name=source]');
await press('Control+Home');
await page.keyboard.type('-- typed');
await press('Enter');
out.typed = (await page.inputValue('[name=source]')) === '-- typed\n' + before;
await press('Tab');
out.after = (await here()).says;
await press('Shift+Tab');
out.back = (await here()).name;
out.same = (await page.inputValue('[name=source]')) === '-- typed\n' + before;
await tab(says('Run its examples'));
await onward('Space');
out.tested = (await page.textContent('main')).includes('Its examples pass');
for (const path of ['', 'credentials', 'credentials/stripe-mine', 'do/credential/set?a1=stripe-mine']) await page.goto(base + path);
await page.goBack();
out.shown = (await page.content()).includes(plan.secret);
await context.close();
console.log(JSON.stringify(out));

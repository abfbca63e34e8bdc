// What can be done to keys: issue, edit, rotate, switch off and on, revoke.

const EXPIRIES = [['30', '30 days'], ['90', '90 days'], ['365', '1 year']];

$('issue').addEventListener('click', () => {
  fillKeyDialog(null);
  openDialog($('key-dialog'), async () => {
    const issued = await call('POST', '/keys', readNewKey());
    return () => revealSecret('Key issued', issued, () => { location.hash = issued.key.id; });
  });
  $('new-name').focus();
});

function editKey(key) {
  fillKeyDialog(key);
  openDialog($('key-dialog'), async () => {
    const changes = changed(key, readKeyChanges());
    const answer = Object.keys(changes).length ? await call('PATCH', `/keys/${key.id}`, changes) : {};
    return () => keyChanged('The key was changed.', answer);
  });
  $('new-name').focus();
}

function rotateKey(key) {
  say($('rotate-name'), key.name);
  $('rotate-own').hidden = !isOwn(key);
  $('grace').value = 1;
  fillUnits($('grace-unit'), DAY);
  openDialog($('rotate-dialog'), async () => {
    const grace = whole($('grace'), 0) * Number($('grace-unit').value);
    const issued = await call('POST', `/keys/${key.id}/rotate`, { grace_seconds: grace });
    return () => revealSecret('New secret', issued, () => keyChanged('The key has a new secret.', issued));
  });
  $('grace').select();
}

function disableKey(key) {
  confirmFirst('Disable key?', 'Disable key', [
    h('p', null, 'Every request with the key ', h('strong', null, key.name), ' will be refused until it is enabled again.'),
    ...consequences(key),
  ], async () => {
    const answer = await call('PATCH', `/keys/${key.id}`, { enabled: false });
    return () => keyChanged('The key is disabled.', answer);
  });
}

async function enableKey(key) {
  try {
    const answer = await call('PATCH', `/keys/${key.id}`, { enabled: true });
    keyChanged('The key is enabled.', answer);
  } catch (error) {
    notice(explain(error), 'failed');
  }
}

function revokeKey(key) {
  confirmFirst('Revoke key?', 'Revoke key', [
    h('p', null, 'Every request with the key ', h('strong', null, key.name), ' will be refused for good. This cannot be undone. Its history stays.'),
    ...consequences(key),
  ], async () => {
    const answer = await call('DELETE', `/keys/${key.id}`);
    return () => keyChanged('The key is revoked.', answer);
  });
}

/** Who would notice. */
function consequences(key) {
  const used = key.last_used_at ? ['It was last used ', when(key.last_used_at), '.'] : ['It was never used.'];
  return [
    h('p', null, used),
    isOwn(key) ? h('p', { class: 'warning' }, 'You are signed in with this key, so you will be signed out.') : null,
  ];
}

function confirmFirst(title, action, text, act) {
  say($('confirm-title'), title);
  say($('confirm-submit'), action);
  $('confirm-text').replaceChildren(...text.filter(Boolean));
  openDialog($('confirm-dialog'), act);
}

// ---- The form of a key ----

/** Empty for a new key, or with what a key has. */
function fillKeyDialog(key) {
  say($('key-dialog-title'), key ? 'Edit key' : 'Issue key');
  say($('key-dialog-submit'), key ? 'Save' : 'Issue key');
  $('new-only').hidden = Boolean(key);
  for (const field of ['name', 'owner', 'environment', 'prefix']) $(`new-${field}`).value = key?.[field] ?? '';
  $('new-scopes').value = key?.scopes.join(' ') ?? '';
  $('new-addresses').value = key?.allowed_addresses.join('\n') ?? '';
  $('new-limits').replaceChildren();
  key?.limits.forEach(addLimit);
  fillCredits(key?.credits);
  $('new-metadata').replaceChildren();
  Object.entries(key?.metadata ?? {}).forEach(addMetadata);
  fillExpiry(key?.expires_at);
  $('key-dialog').querySelector('.body').scrollTop = 0;
}

$('add-limit').addEventListener('click', () => addLimit().querySelector('input').focus());
$('add-metadata').addEventListener('click', () => addMetadata().querySelector('input').focus());

function fillCredits(credits) {
  $('new-credits').value = credits?.remaining ?? '';
  $('new-refill').value = credits?.refill?.every ?? '';
  $('new-refill-amount').value = credits?.refill?.amount ?? '';
  $('new-refill-to').hidden = !credits?.refill;
}

$('new-refill').addEventListener('change', ({ target }) => {
  $('new-refill-to').hidden = !target.value;
  if (target.value) $('new-refill-amount').focus();
});

/** A budget, or null for none. A new one begins with as much as a refill brings. */
function readCredits() {
  const every = $('new-refill').value;
  const refill = every ? { amount: whole($('new-refill-amount'), 1), every } : null;
  if ($('new-credits').value.trim()) return { remaining: whole($('new-credits'), 0), refill };
  return refill && { remaining: refill.amount, refill };
}

function fillExpiry(present) {
  $('new-expiry').replaceChildren(...[
    present && h('option', { value: 'keep' }, MOMENT.format(new Date(present))),
    h('option', { value: 'never' }, 'Never'),
    ...EXPIRIES.map(([days, text]) => h('option', { value: days }, `In ${text}`)),
    h('option', { value: 'at' }, 'At…'),
  ].filter(Boolean));
  $('new-expires-at').value = '';
  $('new-expires-at').hidden = true;
}

$('new-expiry').addEventListener('change', ({ target }) => {
  $('new-expires-at').hidden = target.value !== 'at';
  if (target.value === 'at') $('new-expires-at').focus();
});

/** A time, null for never, undefined for what it is. */
function readExpiry() {
  const chosen = $('new-expiry').value;
  if (chosen === 'keep') return undefined;
  if (chosen === 'never') return null;
  if (chosen !== 'at') return new Date(now() + Number(chosen) * DAY * 1_000).toISOString();
  const entered = new Date($('new-expires-at').value);
  if (Number.isNaN(entered.getTime())) throw new Invalid('expires_at', 'A date and a time are needed.');
  return entered.toISOString();
}

function readKeyChanges() {
  return {
    name: $('new-name').value.trim(),
    scopes: words($('new-scopes').value),
    limits: readLimits(),
    credits: readCredits(),
    metadata: readMetadata(),
    expires_at: readExpiry(),
    allowed_addresses: words($('new-addresses').value).map(asNetwork),
  };
}

function readNewKey() {
  return {
    ...readKeyChanges(),
    owner: $('new-owner').value.trim() || null,
    environment: $('new-environment').value.trim() || null,
    prefix: $('new-prefix').value.trim() || null,
  };
}

/** An address alone is the network that holds nothing else. */
function asNetwork(address) {
  if (address.includes('/')) return address;
  return `${address}/${address.includes(':') ? 128 : 32}`;
}

/** Those values that are not as they were, so that what others change meanwhile stays. */
function changed(key, values) {
  const entries = Object.entries(values).filter(([name, value]) => value !== undefined
    && comparable(value) !== comparable(key[name] ?? null));
  return Object.fromEntries(entries);
}

/** A value as text, whatever the order of its members. A text field knows one kind of line end. */
function comparable(value) {
  const isObject = value !== null && typeof value === 'object' && !Array.isArray(value);
  return JSON.stringify(isObject ? Object.entries(value).sort() : value).replaceAll(/\\r\\n|\\r/g, '\\n');
}

// ---- The secret, once ----

/** Shows a secret until the dialog is closed, which takes it out of the page. */
function revealSecret(title, { secret, key }, then) {
  let copied = false;
  say($('secret-title'), title);
  say($('secret-name'), key.name);
  say($('secret'), secret);
  say($('copied'), null);
  $('copy').onclick = async () => {
    copied = await copyText(secret, $('secret'));
    say($('copied'), copied ? 'Copied.' : 'The browser does not allow it. Select the text and copy it.');
  };
  const dialog = $('secret-dialog');
  dialog.oncancel = (event) => {
    if (copied) return;
    // Once: the next Esc closes it.
    copied = true;
    event.preventDefault();
    say($('copied'), 'The secret was not copied yet. Press Esc again to close it all the same.');
  };
  dialog.onclose = () => {
    say($('secret'), null);
    if (signedIn) then();
    else $('admin-key').focus();
  };
  openDialog(dialog, () => {});
  $('copy').focus();
}

/** Whether it succeeded. */
async function copyText(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // There is no clipboard without TLS; the older way works there.
    getSelection().selectAllChildren(element);
    return document.execCommand('copy');
  }
}

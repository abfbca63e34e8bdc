// Signing in and out, and what the address shows.

$('sign-in').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = $('sign-in');
  if (form.ariaBusy === 'true') return;
  clearProblems(form);
  const entered = $('admin-key').value.trim();
  form.ariaBusy = 'true';
  try {
    // What else is in a key would not even fit into a header.
    if (!/^[\x21-\x7e]{1,256}$/.test(entered)) throw new Invalid('key', entered ? 'This is no key.' : 'A key is needed.');
    adminKey = entered;
    await call('GET', '/keys?limit=1');
    signIn();
  } catch (error) {
    adminKey = null;
    if (error.status === 401) error = new Invalid('key', explain(error));
    showFailure(form, error);
  } finally {
    form.ariaBusy = 'false';
  }
});

/** What may be shown of the admin key: what the service shows of it, too. */
function ownStart() {
  return adminKey.slice(0, adminKey.lastIndexOf('_') + 5);
}

function signIn() {
  signedIn = true;
  $('admin-key').value = '';
  say($('own-start'), `${ownStart()}…`);
  $('signed-out').hidden = true;
  $('signed-in').hidden = false;
  $('filter').reset();
  clearTimeout(typing);
  route();
}

/** Forgets the key and everything that it has shown, except for a secret that nobody has copied. */
function signOut(text) {
  signedIn = false;
  adminKey = null;
  session.abort();
  session = new AbortController();
  listRequest += 1;
  keyRequest += 1;
  cursors = [null];
  names.clear();
  for (const dialog of document.querySelectorAll('dialog[open]:not(#secret-dialog)')) dialog.close();
  for (const id of ['list-body', 'key', 'owners', 'environments', 'prefixes', 'own-start']) $(id).replaceChildren();
  $('key-dialog').querySelector('form').reset();
  shownKey = null;
  notice(null);
  $('signed-in').hidden = true;
  $('signed-out').hidden = false;
  document.title = 'API keys';
  clearProblems($('sign-in'));
  say($('sign-in').querySelector('.alert'), text);
  $('admin-key').value = '';
  if (!$('secret-dialog').open) $('admin-key').focus();
}

$('sign-out').addEventListener('click', () => signOut());

// The browser may keep the whole page, with its memory, for its back button.
addEventListener('pagehide', () => {
  say($('secret'), null);
  $('secret-dialog').close();
  signOut();
});

/** Shows what the address names: a key by its id, else the list. */
function route() {
  if (!signedIn) return;
  const id = location.hash.slice(1);
  notice(null);
  $('list').hidden = Boolean(id);
  $('key').hidden = !id;
  scrollTo(0, 0);
  keyRequest += 1;
  if (id) {
    loadKey(id);
  } else {
    $('key').replaceChildren();
    document.title = 'API keys';
    loadList();
    $('list-title').focus();
  }
}

addEventListener('hashchange', route);
setInterval(tick, 20_000);

$('signed-out').hidden = false;
$('admin-key').focus();

--- Matching: which credential or domain entry decides a request, and why the others do not.
-- Bundles in the agent's order; in each, credentials before domain entries; `*` domain entries after everything.
-- Within one of these: an exact host beats a wildcard, a longer suffix a shorter, a longer path prefix a shorter;
-- among equals the credential whose placeholder the request presents; then the older. The first that fits decides.
--
-- An item is one credential or domain entry, as the runtime gives it to `add`:
--   { id, kind = "credential"|"domain", name, bundles = {…}, hosts = {…}, ports = {…}|nil, methods = {…}|nil,
--     paths = {…}|nil, plain_http = bool, enabled = bool, tunnel = bool, order = integer (older is smaller) }
-- A question is what decide may know of a request:
--   { method, tls = bool, port, presents = function(item) -> bool,
--     readings = function(known) -> {path, …}|nil: known(prefix), with its slashes as "%2F", answers what stands for
--       it in a reading, where it is the path of an item,
--     skips = { [id] = true }|nil: these have no part in it,
--     foreign = nil | function(item) -> bool: its query is signed with somebody else's key }
-- A WebSocket upgrade has the method WEBSOCKET.
-- One label of a host may be a variable, "${TENANT}.example.com": it counts as an exact host where its value is the
-- label that was asked for. candidates asks for that: holds(bundle, name, label) -> bool.
--
-- The index is a level for each (bundle, kind, host rule): open items in a list, the others by path prefix. A
-- question visits the levels of its host and, in each, one table entry for each length of prefix that occurs.
-- Hosts with a variable stand in it under their other labels, and then by the variable's name.
-- So the cost follows the agent's bundles and the labels of the host, not the number of credentials.
local P, S, C, Cc, R = lpeg.P, lpeg.S, lpeg.C, lpeg.Cc, lpeg.R

-- ---- host rules ----------------------------------------------------------------------------------

-- "api.example.com" | "*.example.com" (any depth, not the apex) | "*" -> kind, text; nothing else is a rule.
local name = (1 - S"*")^1
local label = (1 - S"*.$")^1
local variable = P"${" * C(R"AZ" * (R("AZ", "09") + P"_")^0) * P"}"
local varied_rule = C((label * P".")^0) * variable * C((P"." * label)^0) * -1  -- before, name, after
local host_rule = P"*" * -1 * Cc"any"
                + P"*" * Cc"suffix" * C(P"." * name) * -1
                + Cc"exact" * C(name) * -1

-- An address has no subdomains: "*.0.0.1" must not cover 10.0.0.1.
local address = (R("09") + P".")^1 * -1 + (1 - P":")^0 * P":"

-- ---- what an item wants --------------------------------------------------------------------------

local SLASH = ("/"):byte()
local READ_ONLY = { "GET", "HEAD", "OPTIONS" }  -- a domain entry that names no method: reading needs no more
local NOTES_MAX = 200   -- items that a trace names: more than a person reads
local HINT_MAX = 64     -- items of a level that a refusal looks at: a refused request must not cost more than a served one

-- One set for all items that say the same: ten thousand credentials share a handful.
local function set_of(index, list)
  local key = table.concat(list, " ")
  local set = index.sets[key]
  if not set then
    set = { list = list, has = {} }
    for _, v in ipairs(list) do set.has[v] = true end
    index.sets[key] = set
  end
  return set
end

local function item_ports(given)
  if given.ports and #given.ports > 0 then return given.ports end
  return given.kind == "credential" and given.plain_http and { 443, 80 } or { 443 }
end

local function item_methods(given)
  local list = given.methods
  if not list or #list == 0 then
    if given.kind == "credential" then return nil end
    list = READ_ONLY
  end
  local get, head
  for _, m in ipairs(list) do
    get, head = get or m == "GET", head or m == "HEAD"
  end
  if not get or head then return list end
  local with = {}
  for i, m in ipairs(list) do with[i] = m end
  with[#with + 1] = "HEAD"  -- GET implies HEAD (RFC 9110 9.3.2: the same without the content)
  return with
end

-- A slash within a segment is "%2F" in a path. Here it is a byte that no reading of a request has, so that nothing but
-- exactly this segment is covered.
local WITHIN = "\1"
local function held(prefix) return (prefix:gsub("%%2F", WITHIN)) end
local function shown(prefixes) return (table.concat(prefixes, ", "):gsub(WITHIN, "%%2F")) end

-- nil where every path will do; "/" covers all and is no rule.
local function item_paths(given)
  if not given.paths or #given.paths == 0 then return nil end
  local paths = {}
  for i, p in ipairs(given.paths) do
    if p == "/" then return nil end
    paths[i] = held(p)
  end
  return paths
end

-- What many items have in common, kept once: ten thousand credentials come in a handful of shapes.
local function shape_of(index, given)
  local methods = item_methods(given)
  local ports = item_ports(given)
  local plain = given.kind == "domain" or given.plain_http or false
  local key = table.concat({
    given.kind, table.concat(given.bundles, " "), table.concat(ports, " "), methods and table.concat(methods, " ") or "",
    tostring(given.enabled), tostring(plain), tostring(given.tunnel),
  }, "\n")
  local shape = index.shapes[key]
  if not shape then
    shape = {
      kind = given.kind, bundles = given.bundles, enabled = given.enabled, plain = plain, tunnel = given.tunnel,
      ports = set_of(index, ports), methods = methods and set_of(index, methods),
    }
    index.shapes[key] = shape
  end
  return shape
end

-- Few members and few tables, because the collector walks them all: hosts are one text.
local function item_new(index, given)
  return {
    id = given.id, name = given.name, order = given.order, hosts = table.concat(given.hosts, " "),
    prefixes = item_paths(given), shape = shape_of(index, given),
  }
end

-- Everything but the path.
local function fits(item, q)
  local shape = item.shape
  return shape.enabled and (q.tls or shape.plain) and shape.ports.has[q.port] and not (q.skips and q.skips[item.id])
    and (not shape.methods or shape.methods.has[q.method])
    and not (q.foreign and q.foreign(item))
end

-- "/v1" covers "/v1" and "/v1/…", not "/v10"; "/v1/" covers what is below it.
local function covers(prefix, path)
  local n = #prefix
  return path:sub(1, n) == prefix
    and (n == #path or prefix:byte(n) == SLASH or path:byte(n + 1) == SLASH)
end

-- ---- the index -----------------------------------------------------------------------------------

-- A level is the list of its open items. Where items have paths, `paths` has them by prefix and `lengths` the lengths
-- of these, the longest first. `tree` says whose it is.
local NONE = {}

local function level_new(tree)
  return { tree = tree, count = 0 }
end

local function level_lengths(level)
  local seen, lengths = {}, {}
  for prefix in pairs(level.paths) do
    if not seen[#prefix] then
      seen[#prefix] = true
      lengths[#lengths + 1] = #prefix
    end
  end
  table.sort(lengths, function(a, b) return a > b end)
  level.lengths = lengths
end

local function older(a, b)
  if a.order ~= b.order then return a.order < b.order end
  return a.name < b.name
end

local function list_add(list, item)
  local at = #list + 1
  while at > 1 and older(item, list[at - 1]) do at = at - 1 end
  table.insert(list, at, item)
end

local function list_remove(list, item)
  for i = 1, #list do
    if list[i] == item then return table.remove(list, i) end
  end
end

local function level_add(level, item)
  level.count = level.count + 1
  if not item.prefixes then return list_add(level, item) end
  level.paths = level.paths or {}
  for _, prefix in ipairs(item.prefixes) do
    local list = level.paths[prefix]
    if not list then
      list = {}
      level.paths[prefix] = list
      local known
      for _, n in ipairs(level.lengths or NONE) do known = known or n == #prefix end
      if not known then level_lengths(level) end
    end
    list_add(list, item)
  end
end

local function level_remove(level, item)
  level.count = level.count - 1
  if not item.prefixes then return list_remove(level, item) end
  for _, prefix in ipairs(item.prefixes) do
    local list = level.paths[prefix]
    list_remove(list, item)
    if #list == 0 then level.paths[prefix] = nil end
  end
  level_lengths(level)
  if #level.lengths == 0 then level.lengths, level.paths = nil, nil end
end

local function tree_new(kind, bundle)
  return { kind = kind, bundle = bundle, exact = {}, suffix = {}, any = {}, varied = {} }
end

-- "api.${REGION}.test" has its level at tree.varied["api.?.test"].REGION.
local function varied_place(tree, before, variable_name, after, visit)
  local shape = before .. "?" .. after
  local levels = tree.varied[shape] or {}
  tree.varied[shape] = levels
  visit(levels, variable_name, tree)
  if next(levels) == nil then tree.varied[shape] = nil end
end

-- Calls visit(levels, text, tree) for each place the item has in the index.
local function each_place(index, item, visit)
  for _, bundle in ipairs(item.shape.bundles) do
    local trees = index.bundles[bundle]
    if not trees then
      trees = { credential = tree_new("credential", bundle), domain = tree_new("domain", bundle) }
      index.bundles[bundle] = trees
    end
    for host in item.hosts:gmatch("%S+") do
      local before, variable_name, after = varied_rule:match(host)
      if before and #before + #after > 0 then
        varied_place(trees[item.shape.kind], before, variable_name, after, visit)
      end
      local kind, text = host_rule:match(host)
      if before or host:find("$", 1, true) then kind = nil end
      -- `*` alone would hand a credential to every host: such a record is none of ours.
      if kind and not (kind == "any" and item.shape.kind == "credential") then
        local tree = trees[item.shape.kind]
        visit(tree[kind], text or "*", tree)
      end
    end
  end
end

local function index_new()
  return { bundles = {}, items = {}, sets = {}, shapes = {} }
end

local function index_remove(index, id)
  local item = index.items[id]
  if not item then return end
  index.items[id] = nil
  each_place(index, item, function(levels, text)
    level_remove(levels[text], item)
    if levels[text].count == 0 then levels[text] = nil end
  end)
end

local function index_add(index, given)
  index_remove(index, given.id)
  local item = item_new(index, given)
  index.items[item.id] = item
  each_place(index, item, function(levels, text, tree)
    local level = levels[text]
    if not level then
      level = level_new(tree)
      levels[text] = level
    end
    level_add(level, item)
  end)
end

-- ---- a question ----------------------------------------------------------------------------------

-- Adds the levels of hosts with a variable that has this host's label as its value.
local function add_varied(list, tree, host, holds)
  local from = 1
  while from do
    local dot = host:find(".", from, true)
    local levels = tree.varied[host:sub(1, from - 1) .. "?" .. (dot and host:sub(dot) or "")]
    local names = {}
    for variable_name in pairs(levels or NONE) do names[#names + 1] = variable_name end
    table.sort(names)
    for _, variable_name in ipairs(names) do
      if holds(tree.bundle, variable_name, host:sub(from, (dot or 0) - 1)) then list[#list + 1] = levels[variable_name] end
    end
    from = dot and dot + 1
  end
end

-- The levels of a host, in the order in which they decide. The runtime keeps the list until something changes.
local function candidates(index, bundles, host, holds)
  local list, suffixes = {}, {}
  local named = holds and not address:match(host)
  if not address:match(host) then
    local dot = host:find(".", 2, true)
    while dot do
      suffixes[#suffixes + 1] = host:sub(dot)  -- the longest first
      dot = host:find(".", dot + 1, true)
    end
  end
  for _, bundle in ipairs(bundles) do
    local trees = index.bundles[bundle]
    for _, kind in ipairs(trees and { "credential", "domain" } or {}) do
      local tree = trees[kind]
      list[#list + 1] = tree.exact[host]
      if named and next(tree.varied) then add_varied(list, tree, host, holds) end
      for _, suffix in ipairs(suffixes) do
        list[#list + 1] = tree.suffix[suffix]
      end
    end
  end
  for _, bundle in ipairs(bundles) do
    local trees = index.bundles[bundle]
    list[#list + 1] = trees and trees.domain.any["*"]
  end
  return list
end

-- The first that fits; if several do, the one whose placeholder is presented. The second answer: one was passed over.
local function pick(items, q)
  local first, asked
  local passed = false
  for i = 1, #items do
    local item = items[i]
    if not fits(item, q) then
      passed = true
    elseif not first then
      first = item
    else
      if not asked and q.presents(first) then return first, passed end
      asked = true
      if q.presents(item) then return item, passed end
    end
  end
  return first, passed
end

local PATH_WANTED = {}  -- walk's answer where the decision turns on a path that it was not given

-- item | PATH_WANTED | nil, its level, whether a method or path rule had a say
local function walk(list, q, path)
  local routed = false
  for i = 1, #list do
    local level = list[i]
    local lengths = level.lengths
    if lengths then
      if not path then return PATH_WANTED end
      routed = true
      for k = 1, #lengths do
        local n = lengths[k]
        local items = n <= #path and level.paths[path:sub(1, n)]
        if items and (n == #path or path:byte(n) == SLASH or path:byte(n + 1) == SLASH) then
          local item = pick(items, q)
          if item then return item, level, true end
        end
      end
    end
    local item, passed = pick(level, q)
    routed = routed or passed
    if item then return item, level, routed or item.shape.methods ~= nil end
  end
  return nil, nil, routed
end

-- Each item of a level once, whatever its paths; at most `max`.
local function level_items(level, max)
  local items, seen = {}, {}
  table.move(level, 1, math.min(#level, max), 1, items)
  for _, list in pairs(level.paths or NONE) do
    for i = 1, #list do
      if #items >= max then break end
      if not seen[list[i]] then
        seen[list[i]] = true
        items[#items + 1] = list[i]
      end
    end
    if #items >= max then break end
  end
  table.sort(items, older)
  return items
end

local function item_covers(item, path)
  if not item.prefixes then return true end
  for _, prefix in ipairs(item.prefixes) do
    if covers(prefix, path) then return true end
  end
  return false
end

-- Why this item does not decide, in the order in which a person would mend it.
local function reason(item, q, path, chosen)
  local shape = item.shape
  if not shape.enabled then return "it is disabled" end
  if q.skips and q.skips[item.id] then return "this is its token endpoint; the proxy alone talks to it" end
  if not (q.tls or shape.plain) then return "it goes over TLS only" end
  if not shape.ports.has[q.port] then return "its ports are " .. table.concat(shape.ports.list, ", ") end
  if not item_covers(item, path) then return "its paths are " .. shown(item.prefixes) end
  if shape.methods and not shape.methods.has[q.method] then
    return "its methods are " .. table.concat(shape.methods.list, ", ")
  end
  if q.foreign and q.foreign(item) then return "the URL is signed with another key than its placeholder: somebody else's" end
  return chosen and chosen.name .. " comes first" or "servers may read the path otherwise"
end

local function add_notes(trace, list, q, path, chosen)
  for _, level in ipairs(list) do
    for _, item in ipairs(level_items(level, NOTES_MAX)) do
      if #trace >= NOTES_MAX then return end
      trace[#trace + 1] = {
        item = item, bundle = level.tree.bundle,
        why = item == chosen and "it decides" or reason(item, q, path, chosen),
      }
    end
  end
end

local function sorted_keys(set)
  local keys = {}
  for k in pairs(set) do keys[#keys + 1] = k end
  table.sort(keys)
  return shown(keys)
end

local function note_all(set, list)
  for _, v in ipairs(list) do set[v] = true end
end

-- Nothing fits: the code that names the nearest miss, and what would have been allowed.
local function refuse(list, q, path)
  local methods, paths, ports, disabled, plain, foreign = {}, {}, {}, nil, nil, nil
  for _, level in ipairs(list) do
    for _, item in ipairs(level_items(level, HINT_MAX)) do
      local shape = item.shape
      if not shape.enabled then
        disabled = disabled or shape.ports.has[q.port] and (q.tls or shape.plain) and item_covers(item, path) and item or nil
      elseif not (q.tls or shape.plain) then
        plain = plain or item
      elseif not shape.ports.has[q.port] then
        note_all(ports, shape.ports.list)
      elseif q.foreign and item_covers(item, path) and q.foreign(item) then
        foreign = foreign or item
      elseif item_covers(item, path) then
        note_all(methods, shape.methods.list)
      else
        note_all(paths, item.prefixes)
      end
    end
  end
  if next(methods) then return nil, "method_not_allowed", "allowed here: " .. sorted_keys(methods) end
  if next(paths) then return nil, "path_not_allowed", "allowed on this host: " .. sorted_keys(paths) end
  if next(ports) then return nil, "host_not_allowed", "allowed on this host: port " .. sorted_keys(ports) end
  if plain then return nil, "host_not_allowed", "allowed on this host: https" end
  if foreign then
    return nil, "host_not_allowed", ("the URL is signed with another key than the placeholder of %s; a domain entry would "
      .. "let it pass"):format(foreign.name)
  end
  if disabled then
    return nil, "service_disabled", ("the %s %s for it is disabled"):format(disabled.shape.kind == "domain" and "domain entry" or "credential", disabled.name)
  end
  return nil, "host_not_allowed"
end

--- item, bundle, routed (a method or path rule had a say) | nil, code, hint. A trace gets { item, bundle, why } rows.
local function decide(list, q, trace)
  local path = "/"
  local item, level, routed = walk(list, q)
  if item == PATH_WANTED or (trace and #list > 0) then
    local readings = q.readings(function(prefix)
      local text = held(prefix)
      for i = 1, #list do
        if list[i].paths and list[i].paths[text] then return text end
      end
    end)
    local wanted = item == PATH_WANTED
    if not readings and wanted then return nil, "ambiguous_path" end
    path = readings and readings[1] or path
    if wanted then
      item, level, routed = walk(list, q, path)
      for i = 2, #readings do
        if walk(list, q, readings[i]) ~= item then
          if trace then add_notes(trace, list, q, path, nil) end
          return nil, "ambiguous_path"
        end
      end
    end
  end
  if trace then add_notes(trace, list, q, path, item) end
  if item then return item, level.tree.bundle, routed end
  return refuse(list, q, path)
end

--- The domain entry that relays this port blindly, if it decides and no credential covers the host. What is disabled
-- counts as one that reads: switching it off must not open a tunnel past the proxy's eyes. So does a credential for
-- another port. list: the levels of all bundles of the agent; off: nil, or { [name] = true } of those that are disabled.
local function tunnel(list, port, off)
  for _, level in ipairs(list) do
    if level.tree.kind == "credential" then return nil end
  end
  for _, level in ipairs(list) do
    for _, item in ipairs(level_items(level, HINT_MAX)) do
      local shape, shut = item.shape, off and off[level.tree.bundle]
      -- A tunnel entry of a disabled bundle read nothing: it hides no other one.
      if shape.ports.has[port] and not (shut and shape.tunnel) then
        if shape.enabled and shape.tunnel then return item, level.tree.bundle end
        return nil   -- one for some paths alone counts, too: bytes that nobody reads have none
      end
    end
  end
end

-- ---- examples ------------------------------------------------------------------------------------

local function credential(id, more)
  local item = { id = id, kind = "credential", name = id, bundles = { "default" }, hosts = { "api.example.com" },
                 enabled = true, order = 1 }
  for k, v in pairs(more or {}) do item[k] = v end
  return item
end

local function domain(id, more)
  more = more or {}
  more.kind = "domain"
  return credential(id, more)
end

local function asks(method, more)
  local q = { method = method, tls = true, port = 443, path = "/" }
  for k, v in pairs(more or {}) do q[k] = v end
  return q
end

return {
  kind  = "match",
  api   = 1,
  name  = "match",
  title = "Which credential or domain entry decides a request",
  pure  = true,  -- decide looks at the question alone (no clock, no memory): its answers may be kept until a change

  new = index_new, add = index_add, remove = index_remove,
  candidates = candidates, decide = decide, tunnel = tunnel,

  -- items go into a new index; the question's `path` is read as the runtime reads it; `presents` lists ids.
  examples = {
    { items = { credential("a") }, bundles = { "default" }, host = "api.example.com",
      question = asks("POST"), want = { id = "a" } },
    { items = { credential("a") }, bundles = { "default" }, host = "example.com",
      question = asks("GET"), want = { code = "host_not_allowed" } },
    { items = { credential("wide", { hosts = { "*.example.com" } }), credential("exact", { order = 2 }) },
      bundles = { "default" }, host = "api.example.com", question = asks("GET"), want = { id = "exact" } },
    { items = { credential("a", { paths = { "/public" } }) }, bundles = { "default" }, host = "api.example.com",
      question = asks("GET", { path = "/public/%2e%2e/admin" }), want = { code = "ambiguous_path" } },
    { items = { credential("a", { paths = { "/projects/acme%2Fsite" } }) }, bundles = { "default" }, host = "api.example.com",
      question = asks("GET", { path = "/projects/acme%2fsite/issues/%2e" }), want = { id = "a" } },
    { items = { credential("a", { paths = { "/projects/acme%2Fsite" } }) }, bundles = { "default" }, host = "api.example.com",
      question = asks("GET", { path = "/projects/acme%2Fsite%2F..%2Fother" }), want = { code = "path_not_allowed" } },
    { items = { domain("d") }, bundles = { "default" }, host = "api.example.com",
      question = asks("POST"), want = { code = "method_not_allowed" } },
    { items = { domain("all", { hosts = { "*" } }), credential("a", { order = 9 }) }, bundles = { "default" },
      host = "api.example.com", question = asks("GET"), want = { id = "a" } },
  },
}

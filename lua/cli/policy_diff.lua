--- Two texts as a unified diff (POSIX diff -u). Myers, "An O(ND) Difference Algorithm and Its Variations" (1986).
local M = {}

local CONTEXT = 3       -- lines around a change
local EDITS_MAX = 1500  -- beyond, one text replaces the other: the trace takes memory by its square

local function lines_of(text)
  local list = {}
  for line in text:gmatch("([^\n]*\n?)") do
    if line ~= "" then list[#list + 1] = line end
  end
  return list
end

-- The shortest edit: a list of { " " | "-" | "+", line }, of a[from..] and b[from..] up to m and n.
local function edits(a, b, from, m, n)
  local width, reach, trace = m + n, { [1] = 0 }, {}
  local found
  for d = 0, math.min(width, EDITS_MAX) do
    local seen = {}
    for k = -d, d, 2 do
      local x = (k == -d or k ~= d and (reach[k - 1] or -1) < (reach[k + 1] or -1)) and reach[k + 1] or (reach[k - 1] or 0) + 1
      local y = x - k
      while x < m and y < n and a[from + x + 1] == b[from + y + 1] do x, y = x + 1, y + 1 end
      reach[k] = x
      if x >= m and y >= n then found = d end
    end
    for k = -d, d, 2 do seen[k] = reach[k] end
    trace[d] = seen
    if found then break end
  end
  if not found then return nil end
  local back, x, y = {}, m, n
  for d = found, 1, -1 do
    local before, k = trace[d - 1], x - y
    local down = k == -d or k ~= d and (before[k - 1] or -1) < (before[k + 1] or -1)
    local from_k = down and k + 1 or k - 1
    local px = before[from_k]
    local py = px - from_k
    while x > px and y > py do
      back[#back + 1] = { " ", a[from + x] }
      x, y = x - 1, y - 1
    end
    back[#back + 1] = down and { "+", b[from + y] } or { "-", a[from + x] }
    x, y = px, py
  end
  while x > 0 and y > 0 do
    back[#back + 1] = { " ", a[from + x] }
    x, y = x - 1, y - 1
  end
  local out = {}
  for i = #back, 1, -1 do out[#out + 1] = back[i] end
  return out
end

local function all_edits(a, b)
  local from, tail = 0, 0
  while from < #a and from < #b and a[from + 1] == b[from + 1] do from = from + 1 end
  while tail < #a - from and tail < #b - from and a[#a - tail] == b[#b - tail] do tail = tail + 1 end
  local list = {}
  for i = 1, from do list[i] = { " ", a[i] } end
  local middle = edits(a, b, from, #a - from - tail, #b - from - tail)
  if middle then
    table.move(middle, 1, #middle, #list + 1, list)
  else
    for i = from + 1, #a - tail do list[#list + 1] = { "-", a[i] } end
    for i = from + 1, #b - tail do list[#list + 1] = { "+", b[i] } end
  end
  for i = #a - tail + 1, #a do list[#list + 1] = { " ", a[i] } end
  return list
end

-- Hunks as { first, last } of the list of edits, with their context.
local function hunks(list)
  local out = {}
  for i, e in ipairs(list) do
    if e[1] ~= " " then
      local last = out[#out]
      if last and i - last[2] <= 2 * CONTEXT + 1 then last[2] = i else out[#out + 1] = { i, i } end
    end
  end
  for _, h in ipairs(out) do h[1], h[2] = math.max(1, h[1] - CONTEXT), math.min(#list, h[2] + CONTEXT) end
  return out
end

local function range(first, count)
  if count == 1 then return tostring(first) end
  return ("%d,%d"):format(count == 0 and first - 1 or first, count)
end

--- "" where both are the same.
function M.unified(a, b, a_name, b_name)
  if a == b then return "" end
  local list = all_edits(lines_of(a), lines_of(b))
  local out, at, x, y = { "--- " .. a_name .. "\n", "+++ " .. b_name .. "\n" }, 1, 1, 1
  for _, h in ipairs(hunks(list)) do
    while at < h[1] do
      x, y, at = x + (list[at][1] ~= "+" and 1 or 0), y + (list[at][1] ~= "-" and 1 or 0), at + 1
    end
    local from_x, from_y, body = x, y, {}
    while at <= h[2] do
      local e = list[at]
      body[#body + 1] = e[1] .. e[2]
      if e[2]:sub(-1) ~= "\n" then body[#body + 1] = "\n\\ No newline at end of file\n" end
      x, y, at = x + (e[1] ~= "+" and 1 or 0), y + (e[1] ~= "-" and 1 or 0), at + 1
    end
    out[#out + 1] = ("@@ -%s +%s @@\n"):format(range(from_x, x - from_x), range(from_y, y - from_y))
    out[#out + 1] = table.concat(body)
  end
  return table.concat(out)
end

return M

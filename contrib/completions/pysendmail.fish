# fish completion for pysendmail(8). Written by generate.py.

function __pysendmail_ids
    pysendmail queue list --json 2>/dev/null | grep -o '"queue_id": "[^"]*"' | cut -d '"' -f 4
end

function __pysendmail_names
    pysendmail status --json 2>/dev/null | grep -o '"name": "[^"]*"' | cut -d '"' -f 4
end

complete -c pysendmail -f
complete -c pysendmail -n '__fish_use_subcommand' -s h -l help -d 'show this help message and exit'
complete -c pysendmail -n '__fish_use_subcommand' -s C -l config -r -F -d 'the instance\'s configuration'
complete -c pysendmail -n '__fish_use_subcommand' -l version -d 'show program\'s version number and exit'
complete -c pysendmail -n '__fish_use_subcommand' -a daemon -d 'run the queue in the foreground'
complete -c pysendmail -n '__fish_use_subcommand' -a queue -d 'work on queued messages'
complete -c pysendmail -n '__fish_seen_subcommand_from queue; and not __fish_seen_subcommand_from list show explain hold release remove retry expire' -a 'list show explain hold release remove retry expire'
complete -c pysendmail -n '__fish_use_subcommand' -a flush -d 'make everything due now'
complete -c pysendmail -n '__fish_use_subcommand' -a status -d 'health: exit 0, 1 or 2'
complete -c pysendmail -n '__fish_use_subcommand' -a history -d 'what became of past messages'
complete -c pysendmail -n '__fish_use_subcommand' -a top -d 'a live view of queue, rates and smarthosts'
complete -c pysendmail -n '__fish_use_subcommand' -a backup -d 'copy the queue to a new file, while it is in use'
complete -c pysendmail -n '__fish_use_subcommand' -a restore -d 'put a copy in the queue\'s place; not while a daemon runs'
complete -c pysendmail -n '__fish_use_subcommand' -a check -d 'look for what is wrong: configuration, permissions, database, names'
complete -c pysendmail -n '__fish_use_subcommand' -a probe -d 'show what a smarthost offers; sends no mail'
complete -c pysendmail -n '__fish_use_subcommand' -a install-client -d 'write the fast sendmail stub and its names'
complete -c pysendmail -n '__fish_use_subcommand' -a demo -d 'a message from sendmail to a local smarthost, and one that bounces'
complete -c pysendmail -n '__fish_seen_subcommand_from daemon queue flush status history top backup restore check probe install-client demo' -s h -l help -d 'show this help message and exit'
complete -c pysendmail -n '__fish_seen_subcommand_from daemon' -l once -d 'drain what is due and exit'
complete -c pysendmail -n '__fish_seen_subcommand_from queue' -l all -d 'every message that waits'
complete -c pysendmail -n '__fish_seen_subcommand_from queue flush' -l to -x -d 'to this address, or to @domain'
complete -c pysendmail -n '__fish_seen_subcommand_from queue flush history' -l from -x -d 'from this address, @domain, or <>'
complete -c pysendmail -n '__fish_seen_subcommand_from queue flush' -l older -x -d 'accepted so long ago (2h, 3d), or before an RFC 3339 time'
complete -c pysendmail -n '__fish_seen_subcommand_from queue flush' -l reason -x -d 'that wait for a reason with this text in it'
complete -c pysendmail -n '__fish_seen_subcommand_from queue' -l yes -d 'do it to many messages without a question'
complete -c pysendmail -n '__fish_seen_subcommand_from queue history probe' -l json -d 'JSON Lines'
complete -c pysendmail -n '__fish_seen_subcommand_from queue history' -a '(__pysendmail_ids)'
complete -c pysendmail -n '__fish_seen_subcommand_from flush' -l wait -d 'until all of it was tried'
complete -c pysendmail -n '__fish_seen_subcommand_from status' -l json -d 'one JSON object'
complete -c pysendmail -n '__fish_seen_subcommand_from history' -l to -x -d 'messages to this address, or to @domain'
complete -c pysendmail -n '__fish_seen_subcommand_from history' -l since -x -d 'a duration (2h, 3d) or an RFC 3339 time'
complete -c pysendmail -n '__fish_seen_subcommand_from history' -l until -x -d 'the same, for the end'
complete -c pysendmail -n '__fish_seen_subcommand_from history' -l outcome -x -a 'sent bounced expired discarded removed waiting' -d 'one of sent, bounced, expired, discarded, removed, waiting'
complete -c pysendmail -n '__fish_seen_subcommand_from history' -l reason -x -d 'with this text in the last answer'
complete -c pysendmail -n '__fish_seen_subcommand_from history' -l chart -d 'the last day\'s deliveries, deferrals and delays'
complete -c pysendmail -n '__fish_seen_subcommand_from history' -l bounces -d 'the bounce records'
complete -c pysendmail -n '__fish_seen_subcommand_from backup restore' -F
complete -c pysendmail -n '__fish_seen_subcommand_from restore' -l hold -d 'hold all that waits in it first'
complete -c pysendmail -n '__fish_seen_subcommand_from restore' -l yes -d 'without a question'
complete -c pysendmail -n '__fish_seen_subcommand_from probe' -l forget -x -a '(__pysendmail_names)' -d 'forget that TLS was seen there'
complete -c pysendmail -n '__fish_seen_subcommand_from probe' -a '(__pysendmail_names)'
complete -c pysendmail -n '__fish_seen_subcommand_from install-client' -l force -d 'replace files that are not ours'
complete -c pysendmail -n '__fish_seen_subcommand_from install-client' -a '(__fish_complete_directories)'

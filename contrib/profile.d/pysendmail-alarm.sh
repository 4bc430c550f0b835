# /etc/profile.d/pysendmail-alarm.sh: says at login that mail does not leave this machine; silent when all is well.
# The daemon writes the notice (pysendmail.toml(5), [alarm]); nothing is started here unless there is one.
case $- in
*i*)
    for pysendmail_notice in /run/pysendmail-alarm/notice "${XDG_RUNTIME_DIR:-/run/user/none}/pysendmail-alarm/notice"; do
        if [ -s "$pysendmail_notice" ] && [ -r "$pysendmail_notice" ]; then
            cat "$pysendmail_notice"
        fi
    done
    unset pysendmail_notice
    ;;
esac
